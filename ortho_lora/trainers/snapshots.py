"""Snapshots inside a trainer that is watched: batches of one task each, drawn from its own data."""

import math
from collections.abc import Callable, Mapping
from itertools import accumulate, combinations, pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.record.transfer import transfer
from ortho_lora.surgery import distributed
from ortho_lora.surgery.groups import grouped, hashed
from ortho_lora.trainers.mixture import KEY, TaskColumn

SAMPLE = 2048
"""Rows from which the tasks' shares in the mixture are told."""

Row = Mapping[str, Any]


class Rows:
    """The examples of a data set, by task; documents of packed rows by themselves."""

    def __init__(
        self, dataset: Any, column: TaskColumn, task: int | None = None, group_column: str | None = None
    ) -> None:
        """Look for them.

        Args:
            dataset: with a length.
            column: says what task a row is of.
            task: of all of them, where there is no such column.
            group_column: says what a row is of; None: equal rows are one text.

        Raises:
            OrthoLoraError: the data set cannot be asked for any of its rows, or has no such column of groups.
        """
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise OrthoLoraError(
                "snapshots: the training data is a stream, of which nobody can draw other rows amid a training: leave"
                " snapshots out, or give a data set whose rows can be had by index."
            )
        self.dataset, self.column, self.group_column = dataset, column, group_column
        names = getattr(dataset, "column_names", None) or ()
        if group_column is not None and names and group_column not in names:
            raise OrthoLoraError(
                f"group_column: {group_column!r} given, and the data has {', '.join(names)}: name the column that says"
                " what a row is of; packing drops it."
            )
        self.places: list[
            tuple[int, slice | None, int]
        ]  # row, tokens of a document in it (None: all), place of its task
        if task is not None:
            self.places = [(row, None, task) for row in range(len(dataset))]
        elif KEY in names:
            self.places = [
                (row, slice(start, end), tasks[start])
                for row, (tasks, lengths) in enumerate(zip(dataset[KEY], dataset["seq_lengths"], strict=True))
                for start, end in pairwise(accumulate(lengths, initial=0))
            ]
        else:
            values = dataset[column.name] if column.name in names else [row[column.name] for row in dataset]
            self.places = [(row, None, column.place(value)) for row, value in enumerate(values)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example, as a row of its own."""
        place, tokens, _ = self.places[index]
        row = dict(self.dataset[place])
        if tokens is None:
            return row
        cut = {name: of[tokens] for name, of in row.items() if name != "seq_lengths"}
        return cut | {"seq_lengths": [tokens.stop - tokens.start]}

    def drawn(self, task: int, most: int, generator: torch.Generator, *, apart: bool) -> list[dict[str, Any]]:
        """So many examples of a task at most; `apart`: ranks that train together get others each."""
        members = [index for index, (*_, of) in enumerate(self.places) if of == task]
        order = torch.randperm(len(members), generator=generator)
        order = order[distributed.rank() :: distributed.world_size()] if apart else order
        return [self[members[place]] for place in order[:most].tolist()]

    def origin(self, row: Row) -> str:
        """What an example is of: by its column, or its tokens, or all that it has but its labels."""
        if self.group_column is not None:
            return str(row[self.group_column])
        tokens = row.get("input_ids", row.get("prompt_input_ids", row.get("prompt_ids")))
        return (
            str(list(tokens)) if tokens is not None else repr(sorted((k, v) for k, v in row.items() if k != "labels"))
        )

    def shares(self, counted: Callable[[Row], float]) -> dict[str, float]:
        """Of each task in the mixture: of all examples, or of all labels where `counted` tells an example's."""
        chance = torch.Generator().manual_seed(0)
        order = torch.randperm(len(self.places), generator=chance)[:SAMPLE].tolist()
        sums = dict.fromkeys(self.column.tasks, 0.0)
        for index in order:
            sums[self.column.tasks[self.places[index][2]]] += counted(self[index])
        total = sum(sums.values()) or 1.0
        least = 1 / SAMPLE  # a rare task may not be among them
        return {task: max(of / total, least) for task, of in sums.items()}


class Snapshots(NamedTuple):
    """What a training measures on its way."""

    times: int
    batches: int  # of every task in each
    rows: dict[str, tuple[Rows, int]]  # by task, where its examples are, and the task's place there
    held_out: dict[str, tuple[Rows, int]]


class Drawn(NamedTuple):
    """Batches by task, and of each the group of texts that it is of."""

    batches: dict[str, list[list[Row]]]
    groups: dict[str, list[int]]


def draw(
    rows: Mapping[str, tuple[Rows, int]], batches: int, batch_size: int, *, seed: int, step: int, held_out: bool = False
) -> Drawn:
    """Batches of one task each, every batch of one group of texts; equal examples are one text, of whatever task.

    Args:
        rows: by task, where its examples are, and the task's place there.
        batches: of each task on all ranks together; of held-out texts at most, each once, and the same on all ranks.
        batch_size: examples of each, at most.
        seed: of the groups.
        step: of the snapshot, so that another one meets other texts.
        held_out: whether these are held-out texts.
    """
    found = Drawn({}, {})
    count = batches if held_out else math.ceil(batches / distributed.world_size())
    for name, (of, place) in rows.items():
        generator = torch.Generator().manual_seed(hashed(f"{name}\0{step}\0{held_out}", 2**62, seed))
        examples = of.drawn(place, count * batch_size, generator, apart=not held_out)
        chosen = grouped(
            [of.origin(row) for row in examples], count, batch_size, seed=seed, generator=generator, once=held_out
        )
        if chosen.indices:
            found.batches[name] = [[examples[index] for index in batch] for batch in chosen.indices]
            found.groups[name] = chosen.groups
    return found


def held_out_rows(dataset: Any, column: TaskColumn, group_column: str | None = None) -> dict[str, tuple[Rows, int]]:
    """Where held-out examples are: in an `eval_dataset` with the column, or by tasks; of the others there are none."""
    if isinstance(dataset, Mapping):
        places = {name: column.tasks.index(name) for name in dataset if name in column.tasks}
        return {name: (Rows(dataset[name], column, place, group_column), place) for name, place in places.items()}
    names = getattr(dataset, "column_names", None) or ()
    if column.name not in names and KEY not in names:
        return {}
    rows = Rows(dataset, column, group_column=group_column)
    present = {place for *_, place in rows.places}
    return {name: (rows, place) for place, name in enumerate(column.tasks) if place in present}


def scalars_of(found: Snapshot, loss_weights: Mapping[str, float]) -> dict[str, float]:
    """What a training may log of a snapshot: snapshot_cosine/A~B, and in nats a step transfer/SOURCE->TARGET."""
    values, _, _ = found.cosines()
    told = {
        f"snapshot_cosine/{found.tasks[i]}~{found.tasks[j]}": float(values[i, j])
        for i, j in combinations(range(len(found.tasks)), 2)
    }
    if found.vectors is not None:
        nats = transfer([found.vectors], np.array([loss_weights[task] for task in found.tasks])).nats.value
        pairs = product(found.targets, found.tasks)
        told |= {f"transfer/{source}->{target}": float(of) for (target, source), of in zip(pairs, nats, strict=True)}
    return {name: value for name, value in told.items() if value == value}
