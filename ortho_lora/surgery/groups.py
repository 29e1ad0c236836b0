"""Into which group of texts a batch falls: drawn from one, by what the loop says, or in turn."""

from collections.abc import Hashable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

import torch

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery import distributed

GROUPS = 32
"""Of texts: fewer cost power through t(m - 1), more cost memory."""
_MOST_GROUPS = 64
"""Different groups that are taken as they are given."""


def hashed(text: Hashable, groups: int, seed: int) -> int:
    """The group of a text, of a document or of what else belongs together: the same for all tasks."""
    digest = blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % groups


@dataclass(frozen=True)
class GroupedBatches:
    """Examples, batch by batch, each of texts of one group."""

    indices: list[list[int]]
    groups: list[int]  # of each batch


def grouped(
    origins: Sequence[Hashable],
    batches: int,
    batch_size: int,
    *,
    seed: int,
    generator: torch.Generator,
    groups: int = GROUPS,
    once: bool = False,
) -> GroupedBatches:
    """Draw batches, the groups in turn; fewer are the first ones of more.

    Which group an example falls into depends on its origin and the seed alone, so that a text is of one group in every
    task. Within a group all examples come once before any comes again. A group with fewer examples than a batch makes
    smaller batches, never one that repeats an example.

    Args:
        origins: of the examples: text, document, or what else belongs together.
        batches: how many.
        batch_size: examples of each, at most.
        seed: of the groups.
        generator: of the draws.
        groups: m, over all tasks.
        once: take no example twice, so that there may be fewer batches.
    """
    members: dict[int, list[int]] = {}
    for index, origin in enumerate(origins):
        members.setdefault(hashed(origin, groups, seed), []).append(index)
    waiting: dict[int, list[int]] = {group: [] for group in sorted(members)}
    found = GroupedBatches([], [])
    rounds = 0
    while waiting and len(found.indices) < batches and not (once and rounds and not any(waiting.values())):
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


@dataclass(frozen=True)
class Groups:
    """Of the batches of each task."""

    count: int  # m
    places: Mapping[str, Sequence[int]] | None  # by task, of each batch; None: in turn

    def of_task(self, task: str) -> Iterator[int]:
        """Of its batches, in their order."""
        return self.in_turn() if self.places is None else iter(self.places[task])

    def in_turn(self) -> Iterator[int]:
        """0 to m - 1, over and over."""
        return (place % self.count for place in count())


def groups_of(batches: Mapping[str, object], given: Mapping[str, Sequence[Hashable]] | None, seed: int) -> Groups:
    """Of batches by task; the same text is of the same group on all ranks that train together.

    Args:
        batches: by task.
        given: by task, what each batch is of; None: batches in turn, as many groups as batches where these are few.
        seed: of the hash, where different ones are many, or several processes train.

    Raises:
        OrthoLoraError: they are not given for all tasks.
    """
    apart = distributed.world_size() > 1  # no rank knows the others' batches
    if given is None:
        sizes = [len(of) if isinstance(of, Sized) else GROUPS for of in batches.values()]
        return Groups(GROUPS if apart else max(1, min(GROUPS, max(sizes))), None)
    if not isinstance(given, Mapping) or (missing := [task for task in batches if task not in given]):
        what = type(given).__name__ if not isinstance(given, Mapping) else f"none of task {missing[0]!r}"
        raise OrthoLoraError(f"groups: {what} given, expected by task the group of each of its batches.")
    labels = {task: list(given[task]) for task in batches}
    known = dict.fromkeys(label for of in labels.values() for label in of)
    if apart or len(known) > _MOST_GROUPS:
        places = {label: hashed(label, GROUPS, seed) for label in known}
        return Groups(GROUPS, {task: [places[label] for label in of] for task, of in labels.items()})
    places = {label: place for place, label in enumerate(known)}
    return Groups(max(len(known), 1), {task: [places[label] for label in of] for task, of in labels.items()})
