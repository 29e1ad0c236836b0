"""Roll-ups: sums of a step's rows, grown while a run records (see `tables.ROLLUPS`). Importable without torch.

Steps are put in bins of one width, from the first recorded step on. When there are 128 bins their width doubles, so
that the roll-ups of a long run stay as small as those of a short one. Blocks, of which there are many more than layers,
take eight bins together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ortho_lora.record.manifest import Bins
from ortho_lora.record.rows import Gradients, Layout, encoded, repeated
from ortho_lora.record.tables import (
    BINS_TOGETHER,
    NORM_COUNTS,
    NORM_SUMS,
    PAIR_COUNTS,
    PAIR_SQUARES,
    PAIR_SUMS,
    ROLLUPS,
)

Floats = NDArray[np.float64]

MOST_BINS = 128
_FIRST_WIDTH = 8  # recorded steps
_SUMS = {
    "pairs": [name for name, *_ in (*PAIR_COUNTS, *PAIR_SUMS, *PAIR_SQUARES)],
    "norms": [name for name, *_ in (*NORM_COUNTS, *NORM_SUMS)],
}
_LOWS = {"cosine_low"}
_HIGHS = {"cosine_high", "norm_high"}


@dataclass
class Cells:
    """Sums of rows of one table, S for each of R rows, and the extremes of their first value."""

    sums: Floats  # [S, R]
    low: Floats  # [R]; NaN where nothing was measured
    high: Floats  # [R]

    @classmethod
    def none(cls, sums: int, rows: int) -> "Cells":
        return cls(np.zeros((sums, rows)), np.full(rows, np.nan), np.full(rows, np.nan))

    def add(self, other: "Cells") -> None:
        """The same rows in other steps, in place: new arrays would cost more than the sums."""
        self.sums += other.sums
        np.fmin(self.low, other.low, out=self.low)
        np.fmax(self.high, other.high, out=self.high)


_quiet = np.errstate(invalid="ignore", over="ignore")  # what overflowed in training is not finite here either


@_quiet
def pair_cells(gradients: Gradients, out: Cells) -> None:
    """Write the cells of one step's rows of `pairs` to `out`, rows in the `order` of the layout."""
    order = gradients.layout.order["pairs"]
    before, after = (gradients.pairs[name][order].astype(np.float64) for name in ("cos_before", "cos_after"))
    norms, halves = (
        np.append(gradients.norms[name].astype(np.float64), np.nan) for name in ("norm_before", "half_product")
    )
    (n_i, n_j), (h_i, h_j) = ([values[rows] for rows in gradients.layout.of_tasks] for values in (norms, halves))
    measured, halved = ~np.isnan(before), ~np.isnan(h_i) & ~np.isnan(h_j)
    there, back = (gradients.pairs[name][order] & measured for name in ("projected_ij", "projected_ji"))
    cosine = np.where(measured, before, 0.0)
    square_i, square_j, twice = n_i**2, n_j**2, 2 * n_i * n_j
    sums = dict(zip(_SUMS["pairs"], out.sums, strict=True))
    sums["measured"][:], sums["measured_after"][:], sums["halved"][:] = measured, ~np.isnan(after), halved
    sums["projected_ij"][:], sums["projected_ji"][:] = there, back
    np.less(before, 0, out=sums["conflicts"])
    np.less(after, 0, out=sums["conflicts_after"])
    sums["cosines"][:], sums["cosines_after"][:] = cosine, _or_zero(after)
    np.square(cosine, out=sums["cosine_squares"])
    np.multiply(-cosine, there, out=sums["removed_ij"])
    np.multiply(-cosine, back, out=sums["removed_ji"])
    sums["similarity"][:] = np.divide(
        twice, square_i + square_j, out=np.zeros(len(before)), where=measured & (twice > 0)
    )
    sums["inner_product"][:] = _or_zero(cosine * twice / 2)
    sums["square_i"][:], sums["square_j"][:] = _or_zero(square_i), _or_zero(square_j)
    sums["product"][:] = sums["inner_product"] * halved
    sums["half_i"][:], sums["half_j"][:] = np.where(halved, h_i, 0.0), np.where(halved, h_j, 0.0)
    out.low, out.high = before, before


@_quiet
def norm_cells(gradients: Gradients, out: Cells) -> None:
    """Write the cells of one step's rows of `norms` to `out`, rows in the `order` of the layout."""
    order = gradients.layout.order["norms"]
    before, after, half, weight = (
        gradients.norms[name][order].astype(np.float64)
        for name in ("norm_before", "norm_after", "half_product", "weight")
    )
    reached, positive, halved = ~np.isnan(before), before > 0, ~np.isnan(half)
    values = {
        "reached": reached, "with_gradient": positive, "halved": halved, "norms": before, "norms_after": after,
        "removed": 1 - np.divide(after, before, out=np.ones(len(before)), where=positive),
        "weights": np.where(reached, weight, 0.0), "squares": before**2, "half": half, "whole": 2 * before**2 - half,
    }  # fmt: skip
    for row, name in zip(out.sums, _SUMS["norms"], strict=True):
        row[:] = _or_zero(values[name])
    out.low, out.high = before, before


def _or_zero(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.where(np.isnan(values), 0.0, values)


_Key = tuple[str, Layout]  # table and names of its rows
_CELLS = {"pairs": pair_cells, "norms": norm_cells}


class Grouping:
    """Which rows of a table in a layout become one cell of a roll-up."""

    def __init__(self, level: str, table: str, layout: Layout) -> None:
        self.schema, self.table = ROLLUPS[f"rollup/{table}_{level}"], table
        names = {key: values[layout.order[table]] for key, values in getattr(layout, table).items()}
        keys = [key for key in names if key in self.schema.names]
        codes = np.stack([np.unique(names[key], return_inverse=True)[1].ravel() for key in keys])
        _, first, cell = np.unique(codes, axis=1, return_index=True, return_inverse=True)
        order = np.argsort(cell.ravel(), kind="stable")
        self._order = None if np.array_equal(order, np.arange(len(order))) else order
        self._starts = np.searchsorted(cell.ravel()[order], np.arange(len(first)))
        self._names = {key: encoded(names[key][first], self.schema.field(key).type) for key in keys}

    def reduce(self, cells: Cells) -> Cells:
        """Add up the rows of each cell."""
        sums, low, high = cells.sums, cells.low, cells.high
        if self._order is not None:
            sums, low, high = np.take(sums, self._order, axis=1), low[self._order], high[self._order]
        return Cells(
            np.add.reduceat(sums, self._starts, axis=1),
            np.fmin.reduceat(low, self._starts),
            np.fmax.reduceat(high, self._starts),
        )

    def rows(self, bins: Sequence[tuple[int, int, Cells]]) -> pa.Table:
        """The roll-up's rows of bins: first and last step, and the sums of each cell."""
        count = len(self._starts)
        sums = np.concatenate([cells.sums for _, _, cells in bins], axis=1)
        low, high = (np.concatenate([getattr(cells, name) for _, _, cells in bins]) for name in ("low", "high"))
        values: dict[str, NDArray[np.generic]] = dict(zip(_SUMS[self.table], sums, strict=True))
        values |= dict.fromkeys(_LOWS, low) | dict.fromkeys(_HIGHS, high)
        values["step"] = np.repeat([step for step, _, _ in bins], count)
        values["step_end"] = np.repeat([step_end for _, step_end, _ in bins], count)
        columns = [
            repeated(self._names[kind.name], len(bins))
            if kind.name in self._names
            else encoded(values[kind.name], kind.type)
            for kind in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)


class RollUp:
    """Takes steps in their order, and gives the rows of the roll-ups: of a step at once, of a bin when it is full."""

    def __init__(self, bins: Bins | None = None, covered: int = -1) -> None:
        """Begin, or go on where the roll-ups on disk tell of all steps up to `covered`."""
        self.bins = bins
        self._covered = dict.fromkeys(BINS_TOGETHER, covered)
        self._last = covered
        self._early: list[Gradients] = []  # the second step tells how wide bins are
        self._open: dict[str, dict[_Key, Cells]] = {level: {} for level in BINS_TOGETHER}
        self._step: dict[_Key, Cells] = {}  # of one step, overwritten by the next
        self._groupings: dict[tuple[str, _Key], Grouping] = {}
        self._full: dict[tuple[str, _Key], list[tuple[int, int, Cells]]] = {}

    def add(self, gradients: Gradients) -> None:
        """Take what a step measured."""
        step, found = gradients.step, self._cells(gradients)
        for key, cells in found.items():
            self._emit("by_step", key, step, step, cells)
        if self.bins is not None:
            self._collect(self.bins, step, found)
            return
        self._early.append(gradients)
        if step > (first := self._early[0].step):
            self._begin(Bins(first=first, width=_FIRST_WIDTH * (step - first)))

    def finish(self) -> None:
        """Let the bins that are not full end with the last step."""
        if self.bins is None and self._early:
            self._begin(Bins(first=self._early[0].step, width=_FIRST_WIDTH))
        if self.bins is not None:
            for level in BINS_TOGETHER:
                self._close(level, self.bins, self._last)

    def take(self) -> dict[str, pa.Table]:
        """The rows that there are since the last time, by roll-up."""
        tables: dict[str, list[pa.Table]] = {}
        for (level, key), bins in self._full.items():
            tables.setdefault(f"rollup/{key[0]}_{level}", []).append(self._grouping(level, key).rows(bins))
        self._full = {}
        # Of several layouts each has its rows in step order.
        return {name: pa.concat_tables(found).unify_dictionaries().sort_by("step") for name, found in tables.items()}

    def _cells(self, gradients: Gradients) -> dict[_Key, Cells]:
        found = {}
        for table, fill in _CELLS.items():
            key = (table, gradients.layout)
            rows = len(getattr(gradients.layout, table)["layer"])
            if rows:
                if key not in self._step:
                    self._step[key] = Cells.none(len(_SUMS[table]), rows)
                found[key] = self._step[key]
                fill(gradients, found[key])
        return found

    def _begin(self, bins: Bins) -> None:
        self.bins = bins
        early, self._early = self._early, []
        for gradients in early:
            self._collect(bins, gradients.step, self._cells(gradients))

    def _collect(self, bins: Bins, step: int, found: Mapping[_Key, Cells]) -> None:
        for level, together in BINS_TOGETHER.items():
            if self._open[level] and (start := bins.start(step, together)) != bins.start(self._last, together):
                self._close(level, bins, start - 1)
        while (step - bins.first) // bins.width >= MOST_BINS:
            bins = self.bins = Bins(first=bins.first, width=2 * bins.width)
        for key, cells in found.items():
            if key not in self._open["by_layer"]:
                self._open["by_layer"][key] = Cells.none(*cells.sums.shape)
            self._open["by_layer"][key].add(cells)
        self._last = step

    def _close(self, level: str, bins: Bins, step_end: int) -> None:
        step = max(bins.start(self._last, BINS_TOGETHER[level]), self._covered[level] + 1)
        closed, self._open[level] = self._open[level], {}
        for key, cells in closed.items():
            self._emit(level, key, step, step_end, cells)
            if level == "by_layer" and (wider := self._open["by_block"].setdefault(key, cells)) is not cells:
                wider.add(cells)
        self._covered[level] = step_end

    def _emit(self, level: str, key: _Key, step: int, step_end: int, cells: Cells) -> None:
        reduced = self._grouping(level, key).reduce(cells)
        self._full.setdefault((level, key), []).append((step, step_end, reduced))

    def _grouping(self, level: str, key: _Key) -> Grouping:
        if (level, key) not in self._groupings:
            self._groupings[level, key] = Grouping(level, *key)
        return self._groupings[level, key]


def widened(rollup: pa.Table, bins: Bins, together: int) -> pa.Table:
    """The rows of a roll-up in wider bins, `together` at a time."""
    width = bins.width * together
    starts = (rollup["step"].to_numpy() - bins.first) // width
    schema = rollup.schema
    keys = [kind.name for kind in schema if pa.types.is_dictionary(kind.type) or kind.name == "layer"]
    ways = {"step": "min", "step_end": "max", **dict.fromkeys(_LOWS, "min"), **dict.fromkeys(_HIGHS, "max")}
    values = [name for name in schema.names if name not in keys]
    table = rollup.unify_dictionaries().combine_chunks().append_column("bin", pa.array(starts, pa.int32()))
    grouped = table.group_by(["bin", *keys], use_threads=False)
    found = grouped.aggregate([(name, ways.get(name, "sum")) for name in values])
    columns = [
        found[name if name in keys else f"{name}_{ways.get(name, 'sum')}"].cast(schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)
