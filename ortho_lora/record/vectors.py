"""The gradients of a snapshot themselves, at some coordinates: what any mixture of its tasks can be asked about. numpy.

Of each task and each group of texts the mean gradient, of each target that of its held-out texts, and of each task how
far its batches scatter about it. Where all coordinates would take too much, they are drawn at random, and each stands
for several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.tables import SCHEMAS

Singles = NDArray[np.float32]

COORDINATES = 2**13
"""That are kept, at most."""
_VALUES = 2**23
_BITS = 12  # of a mantissa that are recorded: far more than of a batch's gradient are known


def coordinates(rows: int) -> int:
    """How many are kept of each of so many gradients."""
    return max(1, min(COORDINATES, _VALUES // rows))


@dataclass(frozen=True, eq=False)
class Vectors:
    """Of T tasks, S targets and m groups of texts at w coordinates; NaN where a task has no text in a group."""

    tasks: tuple[str, ...]
    targets: tuple[str, ...]
    means: Singles  # [m, T, w]
    held_out: Singles  # [m, S, w]
    deviation: Singles  # standard deviation of a task's batch gradient, [T, w]
    batches: NDArray[np.int64]  # of each task, [T]
    rate: Singles  # learning rate times the coordinates that each stands for, [w]; NaN: there was no optimizer
    eps: Singles  # that AdamW adds to the root, [w]
    past: Singles  # AdamW's P there by that of gradients which had always been these, [w]: they were others

    @cached_property
    def sources(self) -> tuple[Floats, Floats]:
        """`means` with 0 where there is no text, [m, T, w], and 1 where there is, [m, T]."""
        return _filled(self.means)

    @cached_property
    def aims(self) -> tuple[Floats, Floats]:
        """`held_out` likewise, [m, S, w] and [m, S]."""
        return _filled(self.held_out)

    @cached_property
    def mean(self) -> Floats:
        """Over groups, [T, w]; 0 where a task has no text at all."""
        return _over_groups(*self.sources)

    @cached_property
    def held_out_mean(self) -> Floats:
        """Over groups, [S, w]."""
        return _over_groups(*self.aims)

    @cached_property
    def variance(self) -> Floats:
        """Of a batch's gradient less that of the mean, whose square has it already, [T, w]."""
        share = 1 - 1 / np.maximum(self.batches, 1)
        return np.asarray(self.deviation.astype(np.float64) ** 2 * share[:, None])

    def table(self, step: int) -> pa.Table:
        """Its rows of the table `vectors`."""
        rows: list[tuple[str, str | None, int | None, Singles]] = []
        rows += [(name, None, None, getattr(self, name)) for name in ("rate", "eps", "past")]
        rows += [("deviation", task, None, of) for task, of in zip(self.tasks, self.deviation, strict=True)]
        for kind, names, of_groups in (
            ("gradient", self.tasks, self.means),
            ("held out", self.targets, self.held_out),
        ):
            for group, of_group in enumerate(of_groups):
                rows += [
                    (kind, name, group, values)
                    for name, values in zip(names, of_group, strict=True)
                    if not np.isnan(values[0])
                ]
        kinds, tasks, groups, values = zip(*rows, strict=True)
        schema, width = SCHEMAS["vectors"], len(self.rate)
        flat = pa.array(_rounded(np.concatenate(values)), from_pandas=True)
        columns = {
            "step": pa.array([step] * len(rows)),
            "kind": pa.array(kinds),
            "task": pa.array(tasks),
            "group": pa.array(groups),
            "values": pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32) * width, flat),
        }
        arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
        return pa.Table.from_arrays(arrays, schema=schema)


def of_table(rows: pa.Table, tasks: Sequence[str], targets: Sequence[str], batches: Sequence[int]) -> Vectors:
    """From the rows of one step.

    Args:
        rows: of the table `vectors`.
        tasks: in their order.
        targets: likewise.
        batches: of each task.
    """
    kinds, names = (rows[name].cast(pa.string()).to_pylist() for name in ("kind", "task"))
    groups = rows["group"].to_pylist()
    lists = rows["values"].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(rows), -1)
    place = {key: at for at, key in enumerate(zip(kinds, names, groups, strict=True))}
    count = 1 + max(group for group in groups if group is not None)

    def of_groups(kind: str, of: Sequence[str]) -> Singles:
        found = np.full((count, len(of), values.shape[1]), np.nan, np.float32)
        for at, name in enumerate(of):
            for group in range(count):
                if (row := place.get((kind, name, group))) is not None:
                    found[group, at] = values[row]
        return found

    return Vectors(
        tasks=tuple(tasks),
        targets=tuple(targets),
        means=of_groups("gradient", tasks),
        held_out=of_groups("held out", targets),
        deviation=np.stack([values[place["deviation", task, None]] for task in tasks]),
        batches=np.asarray(batches, np.int64),
        rate=values[place["rate", None, None]],
        eps=values[place["eps", None, None]],
        past=values[place["past", None, None]],
    )


def by_step(rows: pa.Table, known: pa.Table, where: object) -> dict[int, Vectors]:
    """Of each snapshot with held-out targets, by its step.

    Args:
        rows: of the table `vectors`.
        known: of the table `snapshot_tasks`.
        where: they are from, for the error.

    Raises:
        OrthoLoraError: the one lacks what the other says is there.
    """
    found: dict[int, Vectors] = {}
    for step in sorted(set(rows["step"].to_pylist())):
        of_step = known.filter(pc.equal(known["step"], step)).to_pylist()
        tasks, targets = ([row for row in of_step if row["target"] == held] for held in (False, True))
        if not targets:
            continue
        names, aims = ([str(row["task"]) for row in of] for of in (tasks, targets))
        try:
            own = rows.filter(pc.equal(rows["step"], step))
            found[step] = of_table(own, names, aims, [row["batches"] for row in tasks])
        except (KeyError, ValueError) as error:
            raise OrthoLoraError(
                f"{where}: the vectors of step {step} are not those of its tasks ({error!r}): another program wrote"
                " them, or some are lost."
            ) from error
    return found


def _filled(values: Singles) -> tuple[Floats, Floats]:
    return np.nan_to_num(values.astype(np.float64)), (~np.isnan(values[..., 0])).astype(np.float64)


def _over_groups(values: Floats, there: Floats) -> Floats:
    return np.asarray(values.sum(0) / np.maximum(there.sum(0), 1)[:, None])


def _rounded(values: Singles) -> Singles:
    """To the nearest of few bits, so that they pack into half the bytes."""
    drop = 23 - _BITS
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
