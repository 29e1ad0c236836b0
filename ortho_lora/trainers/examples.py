"""The examples of a micro-batch: what task each is of, and where it stands in what the model is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ortho_lora.errors import OrthoLoraError
from ortho_lora.trainers import losses


@dataclass
class Examples:
    """Those of a micro-batch."""

    tasks: list[int]  # the place of each one's
    lengths: list[int] | None  # of each in tokens, where they stand behind each other; None: each is a row
    labels: Any
    groups: list[int]  # what belongs together
    opened: bool = False  # whether the surgeon is inside
    times: int = 1  # how often each stands in what the model is given

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.tasks) // self.times

    @property
    def present(self) -> list[int]:
        """The tasks that have any."""
        return sorted(set(self.tasks))

    def repeat(self, rows: int) -> None:
        """Be as many rows as the model is given: chosen and rejected answers stand below each other, kind by kind.

        Raises:
            OrthoLoraError: nobody knows which row is of which example.
        """
        self.times, rest = divmod(rows, len(self.tasks))
        if rest or not self.times:
            raise OrthoLoraError(
                f"watch: the model is given {rows} rows for {len(self.tasks)} examples, so nobody knows which row is of"
                " which task: expected a collator that makes a row of each example."
            )
        self.tasks, self.groups = self.tasks * self.times, self.groups * self.times

    def counted(self, *, shifted: bool) -> list[float] | None:
        """Labels that count, of each example; None: not known."""
        if not isinstance(self.labels, Tensor):
            return None
        if self.lengths is not None:
            known = self.labels.flatten()[: sum(self.lengths)].ne(-100)
            return [float(of.sum()) for of in known.split(self.lengths)]
        return losses.counted(self.labels, shifted=shifted).tolist() if len(self.labels) == len(self.tasks) else None

    def task_of_label(self, shape: torch.Size) -> Tensor:
        """The place of each label's task, [N, L], or [N, 1] for all of a row; -1: padding."""
        if self.lengths is None:
            return torch.tensor(self.tasks)[:, None]
        found = torch.tensor(self.tasks).repeat_interleave(torch.tensor(self.lengths))
        return functional.pad(found, (0, shape.numel() - len(found)), value=-1).view(shape)

    def of_task(self, task: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the model is given, or what it answers, of one task's examples only."""
        if self.lengths is not None:
            others = self.task_of_label(self.labels.shape).to(self.labels.device) != task
            return {**inputs, "labels": self.labels.masked_fill(others, -100)}
        rows = torch.tensor([place for place, of in enumerate(self.tasks[: self.count]) if of == task])
        return {name: _some(value, rows, self.count) for name, value in inputs.items()}

    def examples_of(self, task: int) -> int:
        """How many are of a task."""
        return self.tasks.count(task) // self.times

    def shares(self, weights: Sequence[float]) -> list[float]:
        """What share of them each task of the batch carries, in the order of the tasks."""
        of = [sum(w for w, t in zip(weights, self.tasks, strict=True) if t == task) for task in self.present]
        return [one / sum(of) for one in of]


def _some(value: Any, rows: Tensor, count: int) -> Any:
    """Of what belongs to rows only some; it may stand there several times, as chosen and rejected answers do."""
    if not isinstance(value, Tensor | list) or (isinstance(value, Tensor) and not value.ndim):
        return value
    if not len(value) or len(value) % count:
        return value
    times = len(value) // count
    places = torch.cat([rows + count * time for time in range(times)])
    return value[places.to(value.device)] if isinstance(value, Tensor) else [value[place] for place in places.tolist()]
