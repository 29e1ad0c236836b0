"""Tasks on the user's own files: CSV, TSV, JSONL and Parquet."""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import METRICS_OF_KIND, Kind, Split, TaskData, first_of_each, hold_out, take

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 50
"""With `auto`, more distinct labels than these are numbers to predict."""


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

    kind `auto`: words, truth values and at most 50 distinct whole numbers are classes, other numbers are targets of
    a regression. Classes are in sorted order, whole numbers by value. Repeated rows (same texts but for case and
    white space, same label) are removed. Without `validation_path` a fifth of the texts is held out, chosen by a hash
    of the text.

    Raises OrthoLoraError, naming the file, for anything in it that cannot be used.
    """
    columns = [column for column in (text, text_pair, label) if column is not None]
    table = _read(Path(path), columns)
    rows = [_texts(table, column, path) for column in columns[:-1]]
    held_table = None if validation_path is None else _read(Path(validation_path), columns)

    known = encode_labels(table[label], kind, f"column {label!r} of {path}")
    everything = unique(Split(rows[0], known[1], rows[1] if text_pair else None))
    if held_table is None:
        train, validation = hold_out(everything)
    else:
        held = [_texts(held_table, column, validation_path) for column in columns[:-1]]
        labels = encode_labels(held_table[label], kind, f"column {label!r} of {validation_path}", known[0])[1]
        train, validation = everything, unique(Split(held[0], labels, held[1] if text_pair else None))
    return task_of(name, known[0], train, {"validation": validation}, str(path))
