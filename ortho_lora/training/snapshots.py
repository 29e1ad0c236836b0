"""Snapshots of a training: many batches at the place where it is, each of one group of texts."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ortho_lora.surgery.groups import GROUPS, GroupedBatches, grouped
from ortho_lora.surgery.snapshot import Taker
from ortho_lora.tasks.data import Split, TaskData
from ortho_lora.training.batches import seed_of
from ortho_lora.training.model import use_dropout

Drawn = tuple[Split, list[int]]
"""The examples of a batch."""


def grouped_batches(
    split: Split, batches: int, batch_size: int, *, seed: int, step: int, groups: int = GROUPS, once: bool = False
) -> GroupedBatches:
    """Draw batches of a split's examples, as `grouped`; another `step` meets other texts of the same groups."""
    generator = torch.Generator().manual_seed(seed_of(seed, "snapshot", str(step)))
    return grouped(split.origins, batches, batch_size, seed=seed, generator=generator, groups=groups, once=once)


class Turn(NamedTuple):
    """A batch of a task."""

    name: str
    held_out: bool
    number: int  # 0 for the task's first
    group: int  # of its texts
    drawn: Drawn


def rounds(
    tasks: Sequence[TaskData], batches: int, batch_size: int, *, seed: int, step: int, held_out: int | None = None
) -> Iterator[list[Turn]]:
    """The batches of a snapshot: in each round one of every task, then one of every task's validation texts.

    Args:
        tasks: their data.
        batches: of every task.
        batch_size: examples of each, at most.
        seed, step: as of `grouped_batches`.
        held_out: batches of validation texts, at most, and each text once; None: as many as of the others; 0: none.
    """
    most = {False: batches, True: batches if held_out is None else held_out}
    splits = [(task.name, False, task.train) for task in tasks]
    splits += [(task.name, True, task.evaluation["validation"]) for task in tasks if most[True]]
    drawn = [
        grouped_batches(split, most[held], batch_size, seed=seed, step=step, once=held) for _, held, split in splits
    ]
    for number in range(max(most.values())):
        yield [
            Turn(name, held, number, of.groups[number], (split, of.indices[number]))
            for (name, held, split), of in zip(splits, drawn, strict=True)
            if number < len(of.indices)
        ]


class Taking:
    """A snapshot of a training, taken turn by turn.

    The random numbers of a batch are its own, so that it does not matter which were taken before.
    """

    def __init__(
        self,
        taker: Taker,
        model: nn.Module,
        loss_of: Callable[[str, Drawn], Tensor],
        put_back: Callable[[], None],
        *,
        encoder_dropout: bool,
        seed: int,
    ) -> None:
        """Begin with nothing.

        Args:
            taker: of the gradients.
            model: that is trained.
            loss_of: of a task, on some examples.
            put_back: makes buffers what they were.
            encoder_dropout: whether the frozen encoder drops out as well.
            seed: of dropout.
        """
        self.taker, self.model, self.loss_of, self.put_back = taker, model, loss_of, put_back
        self.encoder_dropout, self.seed = encoder_dropout, seed
        self._evaluates: bool | None = None  # whether the model is in evaluation mode; None: not set

    def take(self, turn: Turn) -> None:
        """Add the gradients of a batch, with dropout as in training; of held-out texts without."""
        self._evaluate(turn.held_out)
        purpose = "held out" if turn.held_out else "learned"
        torch.manual_seed(seed_of(self.seed, turn.name, purpose, str(turn.number)))
        self.taker.take(turn.name, turn.group, self.loss_of(turn.name, turn.drawn), held_out=turn.held_out)
        self.put_back()

    def loss_on(self, name: str, drawn: Drawn) -> Tensor:
        """Of a task on some held-out examples, which are not added."""
        self._evaluate(True)
        return self.loss_of(name, drawn)

    def _evaluate(self, held_out: bool) -> None:
        if held_out == self._evaluates:
            return
        if held_out:
            self.model.eval()
        else:
            use_dropout(self.model, encoder=self.encoder_dropout)
        self._evaluates = held_out
