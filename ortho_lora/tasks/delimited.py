"""Rows of CSV and TSV files, read strictly: no row is swallowed by a quotation mark that nothing closes.

A field may be quoted, with quotation marks inside doubled, and then hold delimiters and line ends. Of TSV files there
is another kind, in which quotation marks are characters like any other and every line is a row.
"""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ortho_lora.errors import OrthoLoraError

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {",": "commas", "\t": "tabs"}


@dataclass(frozen=True)
class _Rows:
    """The header and what follows it, without empty lines."""

    fields: list[list[str]]
    first: list[int]
    """The line in which each begins, from 1."""
    last: list[int]


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
        rows = _parse(text, delimiter)
        _check_nothing_swallowed(rows, text, delimiter)
    except _UnbalancedError as error:
        rows = _parse(text, delimiter, quoted=False)
        alike = all(len(fields) == len(rows.fields[0]) and not any(map(_is_escaped, fields)) for fields in rows.fields)
        if delimiter != "\t" or not alike:
            raise OrthoLoraError(
                f"line {error.line} of {path} has a quotation mark that {error}: quote that field and double the marks"
                ' inside it, as in "the ""best"" film"'
            ) from None
    if not rows.fields:
        raise OrthoLoraError(f"{path} is empty: expected a header with the names of its columns, and rows")
    header, *body = rows.fields
    if len(header) == 1 and (found := next((other for other in ";|\t," if other in header[0]), None)):
        raise OrthoLoraError(
            f"{path} has one column, {header[0]!r}: its fields seem to be separated by {found!r}, expected"
            f" {_NAMES[delimiter]}, as its ending says"
        )
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    for line, fields in zip(rows.first, rows.fields, strict=True):
        if len(fields) != len(names):
            raise OrthoLoraError(
                f"line {line} of {path} differs from its header in the number of fields, {len(fields)} for"
                f" {len(names)}: quote fields that hold {_NAMES[delimiter]} or line ends, and give each row all fields"
            )
    columns = zip(*body, strict=True) if body else ((),) * len(names)
    data = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    return data.set_axis(pd.Index(names, dtype=object), axis=1)


def _parse(text: str, delimiter: str, *, quoted: bool = True) -> _Rows:
    """Raises _UnbalancedError."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    csv.field_size_limit(sys.maxsize)  # of long texts as well
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows, before = _Rows([], [], []), 0
    try:
        for fields in reader:
            if len(fields) > 1 or (fields and fields[0].strip()):
                rows.fields.append(fields)
                rows.first.append(before + 1)
                rows.last.append(reader.line_num)
            before = reader.line_num
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise _UnbalancedError(before + 1, "nothing closes") from None
        raise _UnbalancedError(reader.line_num, "closes a field in its middle") from None
    return rows


def _check_nothing_swallowed(rows: _Rows, text: str, delimiter: str) -> None:
    """Raise _UnbalancedError where each line of a row would be a row like the others: marks that balance by chance.

    A line is like the others where it has as many fields, and in some column only values of theirs, or numbers as they.
    """
    places = range(1, len(rows.fields))
    several = [place for place in places if rows.last[place] > rows.first[place]]
    if not several:
        return
    width = len(rows.fields[0])
    lines = list(io.StringIO(text, newline=""))
    of_rows = ((rows.first[place], lines[rows.first[place] - 1 : rows.last[place]]) for place in several)
    suspects = [
        (line, [part.rstrip("\r\n").split(delimiter) for part in parts])
        for line, parts in of_rows
        if all(part.count(delimiter) == width - 1 for part in parts)
    ]
    if not suspects:
        return
    others = [rows.fields[place] for place in places if rows.last[place] == rows.first[place]]
    known = [set(values) for values in zip(*(fields for fields in others if len(fields) == width), strict=True)]
    numeric = [all(map(_is_number, values)) for values in known]
    for line, parts in suspects:
        for column, values in enumerate(known):
            if all(part[column] in values or (numeric[column] and _is_number(part[column])) for part in parts):
                raise _UnbalancedError(line, f"makes one row of {len(parts)} lines that look like rows")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_escaped(field: str) -> bool:
    """Whether it was written quoted, with the marks inside it doubled."""
    return len(field) > 4 and field[0] == field[-1] == '"' and '""' in field[1:-1]
