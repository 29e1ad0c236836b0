"""Snapshots of a training: many batches at the place where it is, each of one group of texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ortho_lora.surgery.groups import GROUPS, hashed
from ortho_lora.tasks.data import Split
from ortho_lora.training.batches import seed_of


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


def places_of(batches: Sequence[GroupedBatches]) -> int:
    """How many batches there are in all."""
    return sum(len(of.indices) for of in batches)
