"""What a step for each task does to single validation texts, at the end of a snapshot."""

from collections.abc import Callable, Iterator, Sequence

import torch

from ortho_lora.record.texts import Texts
from ortho_lora.surgery.directions import Directions
from ortho_lora.tasks.data import Split, TaskData
from ortho_lora.training.batches import seed_of
from ortho_lora.training.snapshots import Taking


def texts_of(
    taking: Taking, tasks: Sequence[TaskData], most: int, *, adamw: bool, seed: int, sign: Callable[[], object]
) -> Iterator[Texts]:
    """Of each task, one after the other.

    Args:
        taking: a snapshot with held-out texts that has its batches; none is told where its sums are sketched.
        tasks: their data.
        most: validation texts of each, chosen by the seed alone: those of a run's snapshots are the same.
        adamw: whether AdamW takes the steps.
        seed: of the choice.
        sign: called before each text.
    """
    taker = taking.taker
    if not most or not taker.sums.exact:
        return
    directions = Directions(taker, adamw=adamw)
    for task in tasks:
        split = task.evaluation["validation"]
        generator = torch.Generator().manual_seed(seed_of(seed, "texts", task.twin_of or task.name))
        places = sorted(torch.randperm(len(split), generator=generator)[:most].tolist())
        losses, nats = [], []
        for place in places:
            sign()
            loss = taking.loss_on(task.name, (split, [place]))
            losses.append(loss.detach().double())
            nats.append(directions.effect_on(loss))
            taking.put_back()
        yield Texts(
            target=task.name,
            tasks=taker.tasks,
            places=places,
            texts=[_written(split, place) for place in places],
            labels=[_named(task, split, place) for place in places],
            losses=torch.stack(losses).cpu().numpy(),
            nats=torch.stack(nats).cpu().numpy(),
        )


def _written(split: Split, place: int) -> str:
    return split.texts[place] if split.text_pairs is None else f"{split.texts[place]} | {split.text_pairs[place]}"


def _named(task: TaskData, split: Split, place: int) -> str:
    label = split.labels[place]
    return task.classes[int(label)] if task.classes else f"{float(label):g}"
