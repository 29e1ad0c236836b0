"""Tasks from tables, whatever they were read from."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import FITTING, METRICS_OF_KIND, Kind, Split, TaskData, first_of_each, hold_out, take
from ortho_lora.tasks.labels import Labels, class_indices, class_name, kind_and_classes, targets

if TYPE_CHECKING:
    import pandas as pd

EMPTY, REPEATED = "empty", "repeated"
"""Why rows were left out; of a label that is dropped, `label NAME`."""


@dataclass(frozen=True)
class Table:
    """Rows, and the name under which errors speak of them."""

    where: str
    rows: "pd.DataFrame"

    def __post_init__(self) -> None:
        names = [str(name) for name in self.rows.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OrthoLoraError(
                f"{self.where} has {names.count(twice[0])} columns named {twice[0]!r}: rename all but one"
            )


@dataclass(frozen=True)
class Columns:
    """Names of the columns with the text, the label, the second text of a pair, and what an example is of."""

    text: str
    label: str
    text_pair: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class _Rows:
    """What a task takes of a table."""

    where: str
    texts: list[str]
    pairs: list[str] | None
    labels: Labels
    groups: list[str] | None
    dropped: dict[str, int] = field(default_factory=dict)
    """How many rows were left out, by reason."""


def task_from_tables(
    name: str,
    train: Table,
    evaluation: Mapping[str, Table],
    columns: Columns,
    kind: Literal["auto", Kind] = "auto",
    *,
    classes: Sequence[str] = (),
    metrics: Sequence[str] = (),
    skip_empty: bool = False,
    drop_labels: Sequence[str] = (),
) -> TaskData:
    """A task from tables.

    Without any in `evaluation` a part of `train` is held out, and before that repeated rows (same texts but for case
    and white space, same label) are reduced to one; given splits are taken as they are.
    `classes` are the labels in their order where that is known, else they are sorted, whole numbers by value; `f1` is
    that of the second. Without `metrics` they are what is usual for the kind.
    Rows that `skip_empty` and `drop_labels` leave out are counted in `dropped`, by split.
    """
    unwanted = [class_name(label) for label in drop_labels]
    of_train = _rows(train, columns, skip_empty, unwanted)
    held = {split: _rows(table, columns, skip_empty, unwanted) for split, table in evaluation.items()}
    dropped = {split: dict(rows.dropped) for split, rows in {"train": of_train, **held}.items()}
    _check_dropped(name, of_train.labels, unwanted, dropped)
    kind, classes = kind_and_classes(of_train.labels, kind, [each for each in classes if each not in unwanted])
    _check_metrics(name, metrics, kind, classes)
    learned = _split(of_train, classes, None)
    splits = {split: _split(rows, classes, of_train.labels) for split, rows in held.items()}
    if not splits:
        once = first_of_each(zip(learned.keys, learned.labels.tolist(), strict=True))
        if repeated := len(learned) - len(once):
            dropped["train"][REPEATED] = repeated
        learned, splits["validation"] = hold_out(take(learned, once))
    for split, part in {"training": learned, **splits}.items():
        if not len(part):
            raise OrthoLoraError(
                f"{train.where} has too few rows: after removing repeated ones and holding out a part, none is left"
                f" for {split}; give more rows, or a file of its own for validation"
            )
    return TaskData(
        name,
        kind,
        tuple(classes),
        learned,
        splits,
        tuple(metrics) or METRICS_OF_KIND[kind],
        dropped={split: reasons for split, reasons in dropped.items() if reasons},
    )


def _check_metrics(name: str, metrics: Sequence[str], kind: Kind, classes: Sequence[str]) -> None:
    fitting = FITTING[kind] if len(classes) == 2 else tuple(metric for metric in FITTING[kind] if metric != "f1")
    if strange := [metric for metric in metrics if metric not in fitting]:
        labels = f"{len(classes)} classes" if classes else "numbers"
        raise OrthoLoraError(
            f"metrics of {name!r} names {strange[0]!r}, which does not fit labels that are {labels}: expected some of"
            f" {', '.join(fitting)}"
        )


def _check_dropped(
    name: str, labels: Labels, unwanted: Sequence[str], dropped: Mapping[str, Mapping[str, int]]
) -> None:
    for label in unwanted:
        if not any(_reason(label) in reasons for reasons in dropped.values()):
            known = list(dict.fromkeys(map(class_name, labels.values)))
            shown = ", ".join(map(repr, known[:10])) + (" and so on" if len(known) > 10 else "")
            raise OrthoLoraError(
                f"drop_labels of {name!r} names {label!r}, which is the label of no row: it has {shown}"
            )


def _reason(label: str) -> str:
    return f"label {label}"


def _rows(table: Table, columns: Columns, skip_empty: bool, unwanted: Sequence[str]) -> _Rows:
    """The rows with a text and a label that is wanted."""
    of_texts = [columns.text, *([columns.text_pair] if columns.text_pair else [])]
    names = [*of_texts, columns.label, *([columns.group] if columns.group else [])]
    if table.rows.empty and not len(table.rows):
        raise OrthoLoraError(f"{table.where} has no rows: expected at least a few examples")
    found = {name: _column(table, name) for name in names}
    reasons: list[str | None] = [None] * len(table.rows)
    for index, label in enumerate(found[columns.label]):
        if unwanted and _is_scalar(label) and (named := class_name(label)) in unwanted:
            reasons[index] = _reason(named)
    for name, values in found.items():
        empty = [index for index, value in enumerate(values) if reasons[index] is None and _is_empty(value)]
        if empty and not skip_empty:
            raise OrthoLoraError(
                f"column {name!r} of {table.where} is empty in {len(empty)} of {len(values)} rows, first in data row"
                f" {empty[0] + 1}: fill them, or leave such rows out with skip_empty: true"
            )
        for index in empty:
            reasons[index] = EMPTY
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    dropped = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        raise OrthoLoraError(
            f"{table.where} has no row left: {', '.join(f'{count} {why}' for why, count in dropped.items())}"
            f" of {len(reasons)} were left out"
        )
    texts = {name: _texts(table, name, found[name], kept) for name in of_texts}
    labels = Labels(
        f"column {columns.label!r} of {table.where}",
        [found[columns.label][index] for index in kept],
        [index + 1 for index in kept],
    )
    pairs = texts[columns.text_pair] if columns.text_pair else None
    groups = [str(found[columns.group][index]) for index in kept] if columns.group else None
    return _Rows(table.where, texts[columns.text], pairs, labels, groups, dict(dropped))


def _column(table: Table, name: str) -> list[Any]:
    known = [str(column) for column in table.rows.columns]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(map(repr, known[:20])) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise OrthoLoraError(f"{table.where} has no column {name!r}: {hint}it has {shown}")
    values: list[Any] = table.rows.iloc[:, known.index(name)].tolist()
    return values


def _is_scalar(value: object) -> bool:
    """Whether it is one value, as a label or text is, and no list or record."""
    return not hasattr(value, "__len__") or isinstance(value, str)


def _is_empty(value: object) -> bool:
    import pandas as pd

    if isinstance(value, str):
        return not value.strip()
    return _is_scalar(value) and bool(pd.isna(value))


def _texts(table: Table, name: str, values: Sequence[Any], kept: Sequence[int]) -> list[str]:
    for index in kept:
        text = values[index]
        if not isinstance(text, str):
            raise OrthoLoraError(
                f"column {name!r} of {table.where} holds values like {text!r} (data row {index + 1}), expected text:"
                " name another column, or write them as text"
            )
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise OrthoLoraError(
                f"column {name!r} of {table.where} holds half a character (a lone surrogate) in data row {index + 1}:"
                " correct it"
            )
    return [values[index] for index in kept]


def _split(rows: _Rows, classes: Sequence[str], training: Labels | None) -> Split:
    """Of the training rows, where `training` is None, or of rows to evaluate on."""
    labels = class_indices(rows.labels, classes) if classes else targets(rows.labels, training)
    return Split(rows.texts, labels, rows.pairs, rows.groups)
