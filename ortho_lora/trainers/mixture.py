"""One data set whose rows say in a column which task they are of: found, and carried along to the step."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ortho_lora.errors import OrthoLoraError

KEY = "ortho_lora_task"
"""In a batch: the place of each example's task, [N]; in a packed row: that of each token's."""
LENGTHS = "ortho_lora_length"
"""In a batch: of each example in tokens, [N], where examples stand behind each other."""
GROUPS = "ortho_lora_group"
"""In a batch: what examples belong together, as the answers to one prompt, [N]."""
KEYS = (KEY, LENGTHS, GROUPS)


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
    if columns is not None and "seq_lengths" in columns and name not in columns:
        raise OrthoLoraError(
            f"task_column: {name!r} given, and packing has dropped it: make the trainer with carrying(SFTTrainer,"
            f" {name!r})(...) in place of SFTTrainer(...); carrying is in ortho_lora.trainers.packed."
        )
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
        batch = self.collator([{key: of for key, of in row.items() if key not in (name, KEY)} for row in rows])
        if not all(name in row or KEY in row for row in rows):
            return batch  # what is evaluated may have no such column
        if all(KEY in row for row in rows):
            lengths = [length for row in rows for length in row["seq_lengths"]]
            starts = np.cumsum([0, *lengths])[:-1]
            tasks = np.concatenate([row[KEY] for row in rows])[starts].tolist()
        else:
            tasks, lengths = [self.column.place(row[name]) for row in rows], None
            tokens = batch.get("input_ids")
            if isinstance(tokens, Tensor) and len(tokens) == 1 < len(rows):  # padding-free
                lengths = [len(row["input_ids"]) for row in rows]
        batch[KEY] = torch.tensor(tasks)
        if lengths is not None:
            batch[LENGTHS] = torch.tensor(lengths)
        return batch
