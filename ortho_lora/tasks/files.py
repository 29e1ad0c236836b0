"""Tasks on the user's own tables: CSV, TSV, JSONL and Parquet files."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import METRICS_OF_KIND, Kind, Split, TaskData, first_of_each, hold_out, take

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 50
"""With kind `auto`, more distinct labels than these are no classes."""


@dataclass(frozen=True)
class Table:
    """Rows, and the name under which errors speak of them."""

    where: str
    rows: "pd.DataFrame"


@dataclass(frozen=True)
class Columns:
    """Names of the columns with the text, the label and, for tasks on pairs, the second text."""

    text: str
    label: str
    text_pair: str | None = None


def load_file(
    name: str,
    path: Path | str,
    text: str,
    label: str,
    text_pair: str | None = None,
    kind: Literal["auto", Kind] = "auto",
    validation_path: Path | str | None = None,
) -> TaskData:
    """A task from the columns `text`, `label` and, for pairs, `text_pair` of a file.

    kind `auto`: words, truth values and whole numbers are classes where at most 50 of them differ, other numbers are
    targets of a regression. Without `validation_path` a fifth of the texts is held out, chosen by a hash of the text.

    Raises OrthoLoraError, naming the file, for anything in it that cannot be used.
    """
    held = {} if validation_path is None else {"validation": read_table(Path(validation_path))}
    return task_from_tables(name, read_table(Path(path)), held, Columns(text, label, text_pair), kind)


def task_from_tables(
    name: str,
    train: Table,
    evaluation: Mapping[str, Table],
    columns: Columns,
    kind: Literal["auto", Kind] = "auto",
    *,
    classes: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> TaskData:
    """A task from tables.

    Without any in `evaluation` a part of `train` is held out, and before that repeated rows (same texts but for case
    and white space, same label) are reduced to one; given splits are taken as they are.
    `classes` are the labels in their order where that is known, else they are sorted, whole numbers by value.
    """
    kind, classes = _kind_and_classes(train, columns.label, kind, classes)
    rows = _split(train, columns, classes)
    splits = {key: _split(table, columns, classes) for key, table in evaluation.items()}
    if not splits:
        once = first_of_each(zip(rows.keys, rows.labels.tolist(), strict=True))
        rows, splits["validation"] = hold_out(take(rows, once))
    for key, split in {"training": rows, **splits}.items():
        if not len(split):
            raise OrthoLoraError(
                f"{train.where} has too few rows: after removing repeated ones and holding out a part, none is left"
                f" for {key}; give more rows, or a file of its own for validation"
            )
    return TaskData(name, kind, tuple(classes), rows, splits, tuple(metrics) or METRICS_OF_KIND[kind])


def read_table(path: Path) -> Table:
    """The rows of a file, as they stand in it.

    Raises OrthoLoraError where there is no such file, or it cannot be read as what its ending says.
    """
    import pandas as pd

    path = path.expanduser()
    # Everything in a CSV file is read as it stands: "NA", "null" and "007" are texts like any other.
    read_csv = partial(pd.read_csv, dtype=str, keep_default_na=False)
    read_json = partial(pd.read_json, lines=True, dtype=False, encoding="utf-8")
    readers = {
        ".csv": read_csv,
        ".tsv": partial(read_csv, sep="\t"),
        ".jsonl": read_json,
        ".parquet": pd.read_parquet,
    }
    if not path.is_file():
        raise OrthoLoraError(f"there is no file {path}: expected the path of a {', '.join(readers)} file")
    if path.suffix.lower() not in readers:
        raise OrthoLoraError(f"cannot tell the format of {path} from its ending: expected {', '.join(readers)}")
    try:
        rows = readers[path.suffix.lower()](path)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise for content they cannot parse
        raise OrthoLoraError(f"cannot read {path} as {path.suffix[1:]} in UTF-8: {str(error).strip()}") from error
    if path.suffix.lower() in (".csv", ".tsv") and not isinstance(rows.index, pd.RangeIndex):  # pandas' reading of it
        raise OrthoLoraError(f"{path} has more fields in a row than the {len(rows.columns)} of its header: quote them")
    return Table(str(path), rows)


def _column(table: Table, name: str) -> "pd.Series":
    known = [str(column) for column in table.rows.columns]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise OrthoLoraError(f"{table.where} has no column {name!r}: {hint}it has {', '.join(map(repr, known))}")
    column = table.rows[name]
    if column.empty:
        raise OrthoLoraError(f"{table.where} has no rows: expected at least a few examples")
    if (missing := column.isna() | (column.astype("str").str.strip() == "")).any():
        raise OrthoLoraError(
            f"column {name!r} of {table.where} is empty in {missing.sum()} of {len(column)} rows, first in data row"
            f" {missing.argmax() + 1}: fill or remove them"
        )
    return column


def _texts(table: Table, name: str) -> list[str]:
    texts: list[str] = _column(table, name).tolist()
    if strange := [text for text in texts if not isinstance(text, str)]:
        raise OrthoLoraError(
            f"column {name!r} of {table.where} holds values like {strange[0]!r}, expected text: name another column"
        )
    return texts


def _kind_and_classes(
    table: Table, label: str, kind: Literal["auto", Kind], classes: Sequence[str]
) -> tuple[Kind, Sequence[str]]:
    if classes:
        return "classification", classes
    column = _column(table, label)
    numbers = _numbers(column)
    if kind == "auto":
        few = column.nunique() <= MOST_CLASSES
        if numbers is None and not few:
            raise OrthoLoraError(
                f"column {label!r} of {table.where} has {column.nunique()} different labels, expected at most"
                f" {MOST_CLASSES}: name another column, or say kind=classification if they are meant"
            )
        kind = "classification" if few and (numbers is None or (numbers % 1 == 0).all()) else "regression"
    if kind == "regression":
        return kind, ()
    names = [_class_name(value) for value in column.tolist()]
    try:
        found = sorted(set(names), key=int)
    except ValueError:
        found = sorted(set(names))
    if len(found) < 2:
        raise OrthoLoraError(f"every row of {table.where} has the label {found[0]!r}: expected at least two classes")
    return kind, found


def _split(table: Table, columns: Columns, classes: Sequence[str]) -> Split:
    texts = _texts(table, columns.text)
    pairs = _texts(table, columns.text_pair) if columns.text_pair else None
    return Split(texts, _labels(table, columns.label, classes), pairs)


def _labels(table: Table, label: str, classes: Sequence[str]) -> NDArray[np.int64] | NDArray[np.float32]:
    column = _column(table, label)
    if not classes:
        numbers = _numbers(column)
        if numbers is None or not (numbers.abs() < np.finfo(np.float32).max).all():
            raise OrthoLoraError(
                f"column {label!r} of {table.where} holds labels that are no finite numbers, such as"
                f" {_strange(column)!r}: correct them, or say kind=classification"
            )
        targets: NDArray[np.float32] = numbers.to_numpy(np.float32)
        return targets
    index = {_class_name(name): position for position, name in enumerate(classes)}
    names = [_class_name(value) for value in column.tolist()]
    if strange := sorted(set(names) - index.keys()):
        raise OrthoLoraError(
            f"column {label!r} of {table.where} holds {strange[0]!r}, which is none of the training labels"
            f" {', '.join(classes)}: correct it, or add training examples of it"
        )
    return np.array([index[name] for name in names], dtype=np.int64)


def _numbers(column: "pd.Series") -> "pd.Series | None":
    """The column as numbers, or None where some value is not one; truth values are words here."""
    import pandas as pd

    if isinstance(column.iloc[0], bool | np.bool_):
        return None
    numbers = pd.to_numeric(column, errors="coerce")
    return None if numbers.isna().any() else numbers


def _class_name(value: object) -> str:
    """Whole numbers have one name however they are written: 1, 1.0 and "01" are one class."""
    text = str(value).strip()
    whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", text)
    return str(int(whole[1])) if whole else text


def _strange(column: "pd.Series") -> object:
    import pandas as pd

    numbers = pd.to_numeric(column.astype("str"), errors="coerce")
    return column[~(numbers.abs() < np.finfo(np.float32).max)].iloc[0]
