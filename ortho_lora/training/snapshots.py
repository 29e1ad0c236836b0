"""Snapshots of a training: many batches at the place where it is, each of one group of texts."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lora.record.snapshots import Snapshot
from ortho_lora.surgery.groups import GROUPS, hashed
from ortho_lora.surgery.surgeon import OrthoLoRA
from ortho_lora.tasks.data import Split, TaskData
from ortho_lora.training.batches import seed_of

Drawn = tuple[Split, list[int]]
"""The examples of a batch."""


@dataclass(frozen=True)
class GroupedBatches:
    """Examples of a split, batch by batch, each of texts of one group."""

    indices: list[list[int]]
    groups: list[int]  # of each batch


def grouped_batches(
    split: Split, batches: int, batch_size: int, *, seed: int, groups: int = GROUPS, once: bool = False
) -> GroupedBatches:
    """Draw batches, the groups in turn.

    Which group an example falls into depends on its origin and the seed alone, so that a text is of one group in every
    task. Within a group all examples come once before any comes again. A group with fewer examples than a batch makes
    smaller batches, never one that repeats an example.

    Args:
        split: whose examples are drawn.
        batches: how many.
        batch_size: examples of each, at most.
        seed: of the groups, and of the draws.
        groups: m, over all tasks.
        once: take no example twice, so that there may be fewer batches.
    """
    members: dict[int, list[int]] = {}
    for index, origin in enumerate(split.origins):
        members.setdefault(hashed(origin, groups, seed), []).append(index)
    generator = torch.Generator().manual_seed(seed_of(seed, "snapshot"))
    waiting: dict[int, list[int]] = {group: [] for group in sorted(members)}
    found = GroupedBatches([], [])
    rounds = 0
    while len(found.indices) < batches and not (once and rounds and not any(waiting.values())):
        for group, left in waiting.items():
            if len(found.indices) == batches:
                break
            if not left:
                if once and rounds:
                    continue
                order = torch.randperm(len(members[group]), generator=generator).tolist()
                left += [members[group][place] for place in order]
            found.indices.append(left[:batch_size])
            found.groups.append(group)
            del left[:batch_size]
        rounds += 1
    return found


def snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """After which steps of a run its snapshots are taken: evenly spread, the last at its end."""
    return sorted({round(steps * place / snapshots) for place in range(1, snapshots + 1)} - {0}) if snapshots else []


class _StoppedError(Exception):
    """Somebody asked for the end amid a snapshot."""


def snapshot_of(
    surgeon: OrthoLoRA,
    tasks: Sequence[TaskData],
    loss_of: Callable[[str, Drawn], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    batches: int,
    batch_size: int,
    seed: int,
    stop: threading.Event,
    sign: Callable[[], object],
) -> Snapshot | None:
    """How the mean gradients of tasks agree with each other, and with those of their validation texts.

    Args:
        surgeon: of the tasks, in their order.
        tasks: their data.
        loss_of: of a task, on some examples.
        optimizer: whose metric is asked for too.
        batches: of every task; of held-out texts at most as many, and each text once.
        batch_size: examples of each, at most.
        seed: of the groups of texts, and of the draws.
        stop: whether to give up.
        sign: called before each batch.

    Returns:
        None: it was stopped.

    Raises:
        OrthoLoraError: a loss or gradient is not finite.
    """
    held = [task.evaluation["validation"] for task in tasks]
    learned = [task.train for task in tasks]
    of_learned = [grouped_batches(split, batches, batch_size, seed=seed) for split in learned]
    of_held = [grouped_batches(split, batches, batch_size, seed=seed, once=True) for split in held]

    def drawn(split: Split, grouped: GroupedBatches) -> Iterator[Drawn]:
        for indices in grouped.indices:
            if stop.is_set():
                raise _StoppedError
            sign()
            yield split, indices

    def by_task(splits: Sequence[Split], of: Sequence[GroupedBatches]) -> dict[str, Iterator[Drawn]]:
        return dict(zip(surgeon.tasks, map(drawn, splits, of), strict=True))

    def groups(of: Sequence[GroupedBatches]) -> dict[str, list[int]]:
        return {name: grouped.groups for name, grouped in zip(surgeon.tasks, of, strict=True)}

    try:
        return surgeon.snapshot(
            by_task(learned, of_learned), loss_of, by_task(held, of_held), optimizer, groups(of_learned),
            groups(of_held), seed=seed,
        )  # fmt: skip
    except _StoppedError:
        return None
