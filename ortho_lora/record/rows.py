"""The rows of `pairs` and `norms` that the gradients of a step make, there and back. Importable without torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import groupby

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ortho_lora.record.tables import TABLES

Columns = Mapping[str, NDArray[np.generic]]

BLOCK_KEYS = ("layer", "module", "branch")
PAIR_KEYS = (*BLOCK_KEYS, "task_i", "task_j")
NORM_KEYS = (*BLOCK_KEYS, "task")


@dataclass(frozen=True, eq=False)
class Layout:
    """The names in a step's rows: R of `pairs`, Q of `norms`. Layouts are equal that have the same names."""

    pairs: Columns  # `PAIR_KEYS`, [R] each
    norms: Columns  # `NORM_KEYS`, [Q] each

    @classmethod
    def of(cls, blocks: Sequence[tuple[int, str, str]], tasks: Sequence[str]) -> "Layout":
        """Of N blocks (layer, module, branch) and T tasks: R = N T (T - 1) / 2 and Q = N T rows, block by block."""
        names, count = np.array(tasks), len(blocks)
        i, j = np.triu_indices(len(tasks), 1)
        places = {name: np.array([block[at] for block in blocks]) for at, name in enumerate(BLOCK_KEYS)}

        def rows(width: int) -> dict[str, NDArray[np.generic]]:
            return {name: np.repeat(values, width) for name, values in places.items()}

        pairs = rows(len(i)) | {"task_i": np.tile(names[i], count), "task_j": np.tile(names[j], count)}
        return cls(pairs, rows(len(tasks)) | {"task": np.tile(names, count)})

    @cached_property
    def digest(self) -> bytes:
        """Of all names: what equality is told by, once looked up."""
        names = [[key, values.tolist()] for columns in (self.pairs, self.norms) for key, values in columns.items()]
        return blake2b(json.dumps(names).encode(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layout) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def order(self) -> Mapping[str, NDArray[np.int64]]:
        """By table, the order of rows in which sums are formed: branch by branch, pair by pair or task by task."""
        by = {"pairs": ("task_j", "task_i", "branch"), "norms": ("task", "branch")}
        return {
            table: np.lexsort([getattr(self, table)[key].astype("U") for key in keys]) for table, keys in by.items()
        }

    @cached_property
    def of_tasks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row of `pairs`, in `order`, the rows of `norms` of its tasks, [R] each; Q where there is none."""
        place = {key: row for row, key in enumerate(_rows(self.norms, NORM_KEYS))}
        pairs = [_rows(self.pairs, (*BLOCK_KEYS, side)) for side in ("task_i", "task_j")]
        first, second = (np.array([place.get(key, len(place)) for key in keys], np.int64) for keys in pairs)
        return first[self.order["pairs"]], second[self.order["pairs"]]

    @cached_property
    def names(self) -> Mapping[str, Mapping[str, pa.Array]]:
        """By table, the columns of names of one step's rows, as Parquet takes them."""
        return {
            table: {name: encoded(values, TABLES[table].field(name).type) for name, values in columns.items()}
            for table, columns in (("pairs", self.pairs), ("norms", self.norms))
        }


@dataclass(frozen=True)
class Gradients:
    """What a step measured, in the rows of its layout: float32, NaN where not measured, and bool."""

    step: int
    layout: Layout
    pairs: Columns  # cos_before, cos_after, projected_ij, projected_ji, [R] each
    norms: Columns  # norm_before, norm_after, half_product, weight, [Q] each

    @classmethod
    def of(
        cls, step: int, layout: Layout, pairs: Mapping[str, ArrayLike], norms: Mapping[str, ArrayLike]
    ) -> "Gradients":
        """From arrays of any kind of number."""
        of_pairs = {name: np.asarray(values, _KINDS.get(name, np.float32)).ravel() for name, values in pairs.items()}
        return cls(
            step, layout, of_pairs, {name: np.asarray(values, np.float32).ravel() for name, values in norms.items()}
        )


_KEYS = {"pairs": PAIR_KEYS, "norms": NORM_KEYS}
_KINDS = {"projected_ij": np.bool_, "projected_ji": np.bool_}


def encode(table: str, gradients: Sequence[Gradients]) -> pa.Table:
    """The rows of `pairs` or `norms` that consecutive steps make; names are looked up once a layout."""
    pieces = []
    for layout, group in groupby(gradients, key=lambda of: of.layout):
        steps = list(group)
        names = layout.names[table]
        columns: dict[str, pa.Array] = {name: repeated(array, len(steps)) for name, array in names.items()}
        columns["step"] = pa.array(np.repeat(np.array([of.step for of in steps], np.int32), len(names["layer"])))
        values = [of.pairs if table == "pairs" else of.norms for of in steps]
        for key in values[0]:
            columns[key] = pa.array(np.concatenate([of[key] for of in values]), from_pandas=True)
        pieces.append(pa.Table.from_arrays([columns[kind.name] for kind in TABLES[table]], schema=TABLES[table]))
    return pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces).unify_dictionaries()


def decode(pairs: pa.Table, norms: pa.Table) -> Iterator[Gradients]:
    """The gradients of whole steps from their rows, in step order; neighbours with the same names share a layout."""
    tables = {"pairs": pairs, "norms": norms}
    steps = {name: table["step"].to_numpy() for name, table in tables.items()}
    codes = {name: _codes(table, _KEYS[name]) for name, table in tables.items()}
    layout: Layout | None = None
    known: dict[str, NDArray[np.int64]] = {}
    for step in np.unique(steps["norms"]).tolist():
        ranges = {name: np.searchsorted(of, [step, step + 1]) for name, of in steps.items()}
        names = {name: codes[name][:, begin:end] for name, (begin, end) in ranges.items()}
        of_step = {name: tables[name].slice(begin, end - begin) for name, (begin, end) in ranges.items()}
        if layout is None or not all(np.array_equal(names[name], known[name]) for name in names):
            layout = Layout(*({key: of_step[name][key].to_numpy() for key in keys} for name, keys in _KEYS.items()))
            known = names
        pairs_of, norms_of = (
            {key: table[key].to_numpy() for key in TABLES[name].names if key not in ("step", *_KEYS[name])}
            for name, table in of_step.items()
        )
        yield Gradients(step, layout, pairs_of, norms_of)


def _codes(table: pa.Table, keys: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name in the columns `keys`, [keys, rows]."""
    columns = table.select(list(keys)).unify_dictionaries().combine_chunks()
    arrays = [columns[key].chunk(0) if table.num_rows else pa.array([], pa.int64()) for key in keys]
    numbers = [array.indices if isinstance(array, pa.DictionaryArray) else array for array in arrays]
    return np.array([array.to_numpy() for array in numbers], np.int64)


def encoded(values: NDArray[np.generic], dtype: pa.DataType) -> pa.Array:
    """Numbers, or names as a dictionary. Null is NaN in an array of numbers, and None in one of objects."""
    if pa.types.is_dictionary(dtype):
        return pa.array(values, pa.string()).dictionary_encode()
    numbers = pa.types.is_floating(dtype) and values.dtype != np.object_
    return pa.array(values, from_pandas=numbers).cast(dtype)


def repeated(array: pa.Array, times: int) -> pa.Array:
    """An array as of `encoded`, so many times over."""
    if isinstance(array, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(np.tile(array.indices.to_numpy(), times), array.dictionary)
    return pa.array(np.tile(array.to_numpy(), times))


def _rows(columns: Columns, keys: Sequence[str]) -> list[tuple[object, ...]]:
    return list(zip(*(columns[key].tolist() for key in keys), strict=True))
