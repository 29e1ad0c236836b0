"""What a training may log of its steps: a few numbers for each task and pair, means since they were last taken."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ortho_lora.surgery.gram import cosines
from ortho_lora.surgery.measure import Measured

MOST_TASKS = 8
"""Of more, pairs are not logged one by one unless asked for."""


class Scalars:
    """Adds up steps of T tasks."""

    def __init__(self, tasks: Sequence[str], *, projects: bool) -> None:
        self.tasks, self.projects = tasks, projects
        self._reset()

    def _reset(self) -> None:
        size = len(self.tasks)
        self._losses = torch.zeros(2, size, dtype=torch.float64)  # sums, and how many were given
        self._cosines = torch.zeros(3, size, size, dtype=torch.float64)  # sums, squares' sums, how many
        self._conflicts = torch.zeros(2, size, size, dtype=torch.float64)  # blocks with one, and blocks
        self._projected = torch.zeros(2, size, dtype=torch.float64)  # projections, and how many there could have been

    def add(self, found: Measured) -> None:
        """Add a step."""
        self._losses += torch.stack([torch.where(found.given, found.losses, 0), found.given])
        whole = cosines(found.gram.sum(0, keepdim=True))[0]
        self._cosines += torch.stack([whole.nan_to_num(), whole.nan_to_num().square(), ~whole.isnan()])
        each = cosines(found.gram)  # [N, T, T]
        self._conflicts += torch.stack([(each < 0).sum(0), (~each.isnan()).sum(0)])
        others = ~torch.eye(len(self.tasks), dtype=torch.bool)
        both = found.present[:, :, None] & found.present[:, None, :] & others
        self._projected += torch.stack([found.projected.sum((0, 2)), both.sum((0, 2))])

    def take(self, *, pairs: bool | None = None) -> dict[str, float]:
        """The means of what was added, by name; and begin anew.

        Args:
            pairs: whether those of each pair; None: of up to 8 tasks. Else their mean and the lowest cosine.

        Returns:
            loss/TASK, where losses are known; cosine/A~B over the whole adapter with its standard error over steps,
            cosine_error/A~B; conflict_rate/A~B, the share of blocks, about half where tasks are unrelated; with a
            method that projects, projected/TASK: the share of what could have been.
        """
        found = self._of_tasks("loss", self._losses)
        if self.projects:
            found |= self._of_tasks("projected", self._projected)
        total, squares, steps = self._cosines
        mean = total / steps
        error = ((squares / steps - mean**2).clamp(min=0) / (steps - 1)).sqrt()
        rate = self._conflicts[0] / self._conflicts[1]
        i, j = torch.triu_indices(len(self.tasks), len(self.tasks), 1)
        if pairs if pairs is not None else len(self.tasks) <= MOST_TASKS:
            for name, of in (("cosine", mean), ("cosine_error", error), ("conflict_rate", rate)):
                found |= {
                    f"{name}/{self.tasks[one]}~{self.tasks[other]}": value
                    for one, other, value in zip(i.tolist(), j.tolist(), of[i, j].tolist(), strict=True)
                    if math.isfinite(value)
                }
        elif len(known := mean[i, j][steps[i, j] > 0]):
            found |= {"cosine/mean": known.mean().item(), "cosine/lowest": known.min().item()}
            found["conflict_rate/mean"] = rate[i, j].nanmean().item()
        self._reset()
        return found

    def _of_tasks(self, name: str, sums: Tensor) -> dict[str, float]:
        """Those that are known, also where one was not finite."""
        return {f"{name}/{task}": total / n for task, total, n in zip(self.tasks, *sums.tolist(), strict=True) if n}
