"""One data set whose rows say in a column which task they are of: found, and carried along to the step."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ortho_lora.errors import OrthoLoraError

KEY = "ortho_lora_task"
"""In a batch: the place of each row's task, [N]."""


class TaskColumn(NamedTuple):
    """Which says of each row what task it is of."""

    name: str
    tasks: list[str]
    places: dict[Hashable, int]  # of the task, by the column's values

    def place(self, value: Any) -> int:
        """Of the task that a row's value names."""
        value = value.item() if isinstance(value, Tensor) else value
        if value not in self.places:
            raise OrthoLoraError(
                f"task_column {self.name!r}: a row says {value!r}, expected one of {', '.join(self.tasks)}."
            )
        return self.places[value]


def task_column(dataset: Any, name: str, tasks: Sequence[str] | None) -> TaskColumn:
    """Find the column of a data set.

    Args:
        dataset: of training rows.
        name: of the column.
        tasks: names, in order; None: all values that it holds, sorted.

    Raises:
        OrthoLoraError: there is no such column, or it cannot be read through beforehand.
    """
    columns = getattr(dataset, "column_names", None)
    if columns is not None and name not in columns:
        raise OrthoLoraError(
            f"task_column: {name!r} given, and the training data has {', '.join(columns)}: name the column that says"
            " which task a row is of."
        )
    feature = (getattr(dataset, "features", None) or {}).get(name)
    labels = list(getattr(feature, "names", None) or ())  # of a ClassLabel, whose rows hold numbers
    if tasks is not None or labels:
        tasks = list(tasks or labels)
        places: dict[Hashable, int] = {task: place for place, task in enumerate(tasks)}
        places |= {number: tasks.index(label) for number, label in enumerate(labels) if label in tasks}
        return TaskColumn(name, tasks, places)
    if not hasattr(dataset, "__len__"):
        raise OrthoLoraError(
            "tasks: none given, and the training data is a stream, which cannot be read through beforehand: name the"
            f" values of {name!r}, as in tasks=['mnli', 'qqp']."
        )
    values = dataset.unique(name) if hasattr(dataset, "unique") else {row[name] for row in dataset}
    tasks = sorted(map(str, values))
    return TaskColumn(name, tasks, {value: tasks.index(str(value)) for value in values})


class MixedCollator:
    """The user's collator, with the rows' tasks beside what it makes."""

    def __init__(self, collator: Callable[[list[Any]], Any], column: TaskColumn) -> None:
        self.collator, self.column = collator, column

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        name = self.column.name
        known = [row[name] for row in rows if name in row]
        batch = self.collator([{key: of for key, of in row.items() if key != name} for row in rows])
        if len(known) == len(rows):  # what is evaluated may have no such column
            batch[KEY] = torch.tensor([self.column.place(value) for value in known])
        return batch
