"""Rows of CSV and TSV files, read strictly: no row is swallowed by a quotation mark that nothing closes.

A field may be quoted, with quotation marks inside doubled, and then hold delimiters and line ends. Of TSV files there
is another kind, in which quotation marks are characters like any other and every line is a row.
"""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ortho_lora.errors import OrthoLoraError

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {",": "commas", "\t": "tabs"}


@dataclass(frozen=True)
class _Row:
    line: int
    """Where it begins, from 1."""
    lines: int
    """How many it takes."""
    fields: list[str]


class _UnbalancedError(Exception):
    """A quotation mark opens what nothing, or something far below, closes."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read_delimited(path: Path, text: str, delimiter: str) -> "pd.DataFrame":
    """The rows of a file with a header, every value as it stands; `path` names it in errors.

    Raises OrthoLoraError, naming the line, where quotation marks do not balance, a row has another number of fields
    than the header, or the header names a column twice.
    """
    import pandas as pd

    try:
        rows = list(_rows(text, delimiter))
        _check_nothing_swallowed(rows, text, delimiter)
    except _UnbalancedError as error:
        rows = list(_rows(text, delimiter, quoted=False)) if delimiter == "\t" else []
        if not rows or any(len(row.fields) != len(rows[0].fields) or _escaped(row) for row in rows):
            raise OrthoLoraError(
                f"line {error.line} of {path} has a quotation mark that {error}: quote that field and double the marks"
                ' inside it, as in "the ""best"" film"'
            ) from None
    if not rows:
        raise OrthoLoraError(f"{path} is empty: expected a header with the names of its columns, and rows")
    header, *body = rows
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header.fields)]
    for row in body:
        if len(row.fields) != len(names):
            raise OrthoLoraError(
                f"line {row.line} of {path} differs from its header in the number of fields, {len(row.fields)} for"
                f" {len(names)}: quote fields that hold {_NAMES[delimiter]} or line ends, and give each row all fields"
            )
    columns = zip(*(row.fields for row in body), strict=True) if body else ((),) * len(names)
    data = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    return data.set_axis(pd.Index(names, dtype=object), axis=1)


def _rows(text: str, delimiter: str, *, quoted: bool = True) -> Iterator[_Row]:
    """Raises _UnbalancedError."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    csv.field_size_limit(sys.maxsize)  # of long texts as well
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    before = 0
    try:
        for fields in reader:
            if any(field.strip() for field in fields) or len(fields) > 1:
                yield _Row(before + 1, reader.line_num - before, fields)
            before = reader.line_num
    except csv.Error as error:
        never = "unexpected end" in str(error)
        raise _UnbalancedError(
            before + 1 if never else reader.line_num,
            "nothing closes" if never else "closes a field in its middle",
        ) from None


def _check_nothing_swallowed(rows: Sequence[_Row], text: str, delimiter: str) -> None:
    """Raise _UnbalancedError where each line of a row would be a row like the others: marks that balance by chance.

    A line is like the others where it has as many fields, and in some column only values of theirs, or numbers as they.
    """
    several = [row for row in rows[1:] if row.lines > 1]
    if not several:
        return
    width = len(rows[0].fields)
    whole = [row.fields for row in rows[1:] if row.lines == 1 and len(row.fields) == width]
    known = [set(values) for values in zip(*whole, strict=True)]
    numeric = [all(map(_is_number, values)) for values in known]
    source = io.StringIO(text, newline="")
    read = 0
    for row in several:
        lines = list(islice(source, row.line - 1 - read, row.line - 1 + row.lines - read))
        read = row.line - 1 + row.lines
        parts = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        if any(len(fields) != width for fields in parts):
            continue
        for column in range(len(known)):
            values = [fields[column] for fields in parts]
            if all(value in known[column] or (numeric[column] and _is_number(value)) for value in values):
                raise _UnbalancedError(row.line, f"makes one row of {row.lines} lines that look like rows")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _escaped(row: _Row) -> bool:
    """Whether a field was written quoted, with the marks inside it doubled."""
    return any(len(field) > 4 and field[0] == field[-1] == '"' and '""' in field[1:-1] for field in row.fields)
