"""Datasets of several tasks as one, whose items hold an example of each."""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch.utils.data import Dataset

Example = Any
"""Whatever a dataset of the user holds, and the collator takes."""


class TaskDataset(Dataset[dict[str, Example]]):
    """Every item holds one example of each task, so that whatever draws items draws a batch from every task.

    As long as the longest dataset; a shorter one starts again when it is through.
    """

    def __init__(self, datasets: Mapping[str, Dataset[Example]], seed: int | None) -> None:
        """Join datasets.

        Args:
            datasets: by task, with lengths.
            seed: of a fixed order of each dataset. Tasks often come from one source in one order, and batches that
                hold the same texts would make gradients agree or conflict by their noise. None: in the order given.
        """
        self.datasets = dict(datasets)
        self.lengths = {task: len(cast(Sized, dataset)) for task, dataset in datasets.items()}
        self._orders = {
            task: None
            if seed is None
            else torch.randperm(length, generator=torch.Generator().manual_seed(seed + place))
            for place, (task, length) in enumerate(self.lengths.items())
        }

    def __len__(self) -> int:
        return max(self.lengths.values())

    def __getitem__(self, index: int) -> dict[str, Example]:
        return {task: dataset[self.place(task, index)] for task, dataset in self.datasets.items()}

    def place(self, task: str, index: int) -> int:
        """Which of the task's examples item `index` holds."""
        place, order = index % self.lengths[task], self._orders[task]
        return place if order is None else int(order[place])


class TaskCollator:
    """Applies a collator task by task: a list of {task: example} becomes {task: batch}."""

    def __init__(self, collator: Callable[[list[Example]], Any]) -> None:
        self.collator = collator

    def __call__(self, items: Sequence[Mapping[str, Example]]) -> dict[str, Any]:
        return {task: self.collator([item[task] for item in items]) for task in items[0]}
