"""Datasets of several tasks as one, whose items hold examples of each."""

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, Literal, cast

import torch
from torch.utils.data import Dataset

from ortho_lora.errors import OrthoLoraError

Example = Any
"""Whatever a dataset of the user holds, and the collator takes."""

Sampling = Literal["equal", "proportional"] | float
"""How many examples of each task a step holds: as many, by the lengths of the datasets, or by these ** (1 / number)."""


def shares(lengths: Mapping[str, int], sampling: Sampling) -> dict[str, float]:
    """How many examples of each task an item holds, in the mean; of all of T tasks T.

    Raises:
        OrthoLoraError: there is no such way.
    """
    if sampling == "equal":
        return dict.fromkeys(lengths, 1.0)
    temperature = 1.0 if sampling == "proportional" else sampling
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise OrthoLoraError(
            f"sampling: {sampling!r} given, expected 'equal', 'proportional', or a temperature above 0: 1.0 is"
            " proportional to the datasets' lengths, and the higher, the more equal."
        )
    longest = max(lengths.values())
    powers = {task: (length / longest) ** (1 / temperature) for task, length in lengths.items()}
    return {task: len(lengths) * power / sum(powers.values()) for task, power in powers.items()}


class TaskDataset(Dataset[dict[str, list[Example]]]):
    """Every item holds examples of the tasks, one of each unless told otherwise: whatever draws items draws them.

    As long as the dataset that takes most items; another one starts again when it is through.
    """

    def __init__(
        self, datasets: Mapping[str, Dataset[Example]], seed: int | None, sampling: Sampling = "equal"
    ) -> None:
        """Join datasets.

        Args:
            datasets: by task, with lengths.
            seed: of a fixed order of each dataset. Tasks often come from one source in one order, and batches that
                hold the same texts would make gradients agree or conflict by their noise. None: in the order given.
            sampling: how many examples of each task an item holds.
        """
        self.datasets = dict(datasets)
        self.lengths = {task: len(cast(Sized, dataset)) for task, dataset in datasets.items()}
        self.shares = shares(self.lengths, sampling)
        self._orders = {
            task: None
            if seed is None
            else torch.randperm(length, generator=torch.Generator().manual_seed(seed + place))
            for place, (task, length) in enumerate(self.lengths.items())
        }

    def __len__(self) -> int:
        return max(math.ceil(length / self.shares[task] - 1e-6) for task, length in self.lengths.items())

    def __getitem__(self, index: int) -> dict[str, list[Example]]:
        return {task: [dataset[place] for place in self.places(task, index)] for task, dataset in self.datasets.items()}

    def places(self, task: str, index: int) -> list[int]:
        """Which of the task's examples item `index` holds: none, one or several."""
        share, order = self.shares[task], self._orders[task]
        # Shares are rounded: what is as good as a whole number is one.
        first, last = (int(items * share + 1e-6) for items in (index, index + 1))
        found = [number % self.lengths[task] for number in range(first, last)]
        return found if order is None else order[found].tolist()


class TaskCollator:
    """Applies a collator task by task: a list of {task: examples} becomes {task: batch}, of tasks that have any."""

    def __init__(self, collator: Callable[[list[Example]], Any]) -> None:
        self.collator = collator

    def __call__(self, items: Sequence[Mapping[str, Sequence[Example]]]) -> dict[str, Any]:
        examples = {task: [example for item in items for example in item[task]] for task in items[0]}
        return {task: self.collator(of) for task, of in examples.items() if of}
