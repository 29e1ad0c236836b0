"""Which examples a pass holds: of which task, in which half of its task's batch, and with how much of the task's loss.

The product of the gradients of two independent halves of a batch estimates the squared norm of the task's true
gradient without its batch noise. That needs two things which a gradient does not tell. *Weights*: what share of the
task's loss in this step an example carries, in any unit: one each where the loss is a mean over examples, its tokens
where it is a mean over tokens. And *groups*: which rows belong to one example (chosen and rejected answers, windows of
a document) and may not be split. Where the weights are not known, nothing is estimated.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from ortho_lora.errors import OrthoLoraError

Weights = float | Sequence[float] | Tensor
"""One number, or a number for each example."""


@dataclass(frozen=True)
class Rows:
    """The N examples of a pass, in its order; a *part* is what one half of a task's batch contributes: 2t + h of 2T.

    An example is a row of a layer's input, or, where several stand behind each other in a row, a run of its tokens.
    """

    parts: tuple[int, ...]  # of each example
    tasks: int
    weights: tuple[float, ...]  # of each example; NaN where not known
    lengths: tuple[int, ...] | None = None  # of each example in tokens, of all rows one after the other; None: rows

    @cached_property
    def runs(self) -> list[tuple[int, slice]]:
        """Which tokens belong to which part, with neighbours of one part in one."""
        assert self.lengths is not None
        found: list[tuple[int, slice]] = []
        start = 0
        for part, length in zip(self.parts, self.lengths, strict=True):
            if found and found[-1][0] == part:
                found[-1] = part, slice(found[-1][1].start, start + length)
            else:
                found.append((part, slice(start, start + length)))
            start += length
        return found

    @cached_property
    def weight_of_part(self) -> list[float]:
        """Of each of the 2T parts; 0 where there is no example of it."""
        found = [0.0] * (2 * self.tasks)
        for part, weight in zip(self.parts, self.weights, strict=True):
            found[part] += weight
        return found

    @cached_property
    def present(self) -> set[int]:
        """The tasks that have an example."""
        return {part // 2 for part in self.parts}

    @cached_property
    def regular(self) -> bool:
        """Whether all 2T parts come in order and are of one size."""
        sizes = Counter(self.parts)
        return len({sizes[part] for part in range(2 * self.tasks)}) == 1 and list(self.parts) == sorted(self.parts)

    @cached_property
    def is_split(self) -> bool:
        """Whether they are of more than one part."""
        return len(set(self.parts)) > 1

    @cached_property
    def of_first_part(self) -> slice | list[int]:
        """Where the examples of the first of their parts are."""
        places = [place for place, of in enumerate(self.parts) if of == min(self.parts)]
        end = places[-1] + 1
        return slice(places[0], end) if end - places[0] == len(places) else places


@lru_cache(maxsize=8)
def one_hot(rows: Rows, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Which example (column) belongs to which part (row), `[2T, N]`."""
    found = nn.functional.one_hot(torch.tensor(rows.parts), 2 * rows.tasks).mT.to(dtype)
    return found.to(device, non_blocking=True)


def rows_of(
    task_of_example: Sequence[int],
    tasks: int,
    *,
    halves: Sequence[int] | None = None,
    weights: Weights | None = None,
    groups: Sequence[Hashable] | None = None,
    lengths: Sequence[int] | None = None,
    first: Sequence[int] | None = None,
) -> Rows:
    """The examples of a pass.

    Args:
        task_of_example: index of each one's task.
        tasks: T.
        halves: of each example, 0 or 1; by default the first half of a task's groups, in their order, is one of them.
        weights: of the examples; None: not known.
        groups: of each example; by default each is one of its own.
        lengths: of each example in tokens, where they stand behind each other; None: each is a row.
        first: by task, the half that its first examples go to. A single group that is all of a task's in this pass goes
            there, so that halves fill in turn where micro-batches hold one example each.

    Raises:
        OrthoLoraError: numbers of another length, halves that are none, or weights that are not positive.
    """
    count = len(task_of_example)
    if halves is not None:
        if len(halves) != count or set(halves) - {0, 1}:
            raise OrthoLoraError(
                f"half_of_example: expected 0 or 1 for each of {count} examples, found {list(halves)}."
            )
    else:
        halves = _halves(task_of_example, _of_length("group_of_example", groups, count), first or [0] * tasks)
    parts = tuple(2 * task + half for task, half in zip(task_of_example, halves, strict=True))
    return Rows(parts, tasks, _weights(weights, count), _lengths(lengths, count))


def rows_of_one(
    task: int,
    tasks: int,
    *,
    half: int | None = None,
    weights: Weights | None = None,
    groups: Sequence[Hashable] | None = None,
    first: int = 0,
) -> Rows:
    """The examples of a pass over one task.

    Args:
        task: its index.
        tasks: T.
        half: that all of them belong to; None: as `rows_of` has it.
        weights: of each example; or one number, of the pass as a whole, which then belongs to one half; None: not
            known.
        groups: of each example.
        first: the half that the first examples go to, or the pass as a whole.

    Raises:
        OrthoLoraError: as `rows_of`.
    """
    each = weights.tolist() if isinstance(weights, Tensor) else weights
    if not isinstance(each, Sequence):
        return Rows((2 * task + (first if half is None else half),), tasks, _weights(each, 1))
    halves = None if half is None else [half] * len(each)
    of_all = [first if one == task else 0 for one in range(tasks)]
    return rows_of([task] * len(each), tasks, halves=halves, weights=each, groups=groups, first=of_all)


def _weights(given: Weights | None, count: int) -> tuple[float, ...]:
    if given is None:
        return (math.nan,) * count
    weights = given.tolist() if isinstance(given, Tensor) else given
    each = list(weights) if isinstance(weights, Sequence) else [weights] * count
    if len(each) != count or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in each):
        raise OrthoLoraError(
            f"weights of examples: expected one number, or one for each of {count} examples, finite and not negative"
            f" (its tokens where the loss is a mean over tokens), found {each}."
        )
    return tuple(map(float, each))


def _lengths(given: Sequence[int] | Tensor | None, count: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    each = given.tolist() if isinstance(given, Tensor) else list(given)
    if len(each) != count or not all(isinstance(one, int) and one > 0 for one in each):
        raise OrthoLoraError(
            f"length_of_example: expected a number of tokens above 0 for each of {count} examples, found {each}."
        )
    return tuple(each)


def _of_length(name: str, groups: Sequence[Hashable] | None, count: int) -> Sequence[Hashable]:
    if groups is None:
        return range(count)
    groups = groups.tolist() if isinstance(groups, Tensor) else groups
    if len(groups) != count:
        raise OrthoLoraError(f"{name}: expected a group for each of {count} examples, found {len(groups)}.")
    return groups


def _halves(task_of_example: Sequence[int], groups: Sequence[Hashable], first: Sequence[int]) -> list[int]:
    """Of each example: the first half of its task's groups, in the order in which they come, or the other."""
    order: dict[int, dict[Hashable, int]] = {}
    for task, group in zip(task_of_example, groups, strict=True):
        of_task = order.setdefault(task, {})
        of_task.setdefault(group, len(of_task))
    middle = {task: max(len(of_task) // 2, 1) for task, of_task in order.items()}
    return [
        first[task] if order[task][group] < middle[task] else 1 - first[task]
        for task, group in zip(task_of_example, groups, strict=True)
    ]
