"""Tasks on the user's own files: CSV, TSV, JSONL and Parquet."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Kind, TaskData
from ortho_lora.tasks.delimited import read_delimited
from ortho_lora.tasks.tables import Columns, Table, task_from_tables

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


def load_file(
    name: str,
    path: Path | str,
    text: str,
    label: str,
    text_pair: str | None = None,
    kind: Literal["auto", Kind] = "auto",
    validation_path: Path | str | None = None,
    skip_empty: bool = False,
    drop_labels: Sequence[str] = (),
    group: str | None = None,
    metrics: Sequence[str] = (),
) -> TaskData:
    """A task from the columns `text`, `label` and, for pairs, `text_pair` of a file; `group` says what a row is of.

    kind `auto`: words, truth values and whole numbers are classes where at most 50 of them differ, numbers that are not
    whole are targets of a regression. Without `validation_path` a fifth of the texts is held out, chosen by a hash of
    the text. Rows without a text or label, and those with one of `drop_labels`, are left out where asked, and counted.

    Raises OrthoLoraError, naming the file and the row or column, for anything in it that cannot be used.
    """
    held = {} if validation_path is None else {"validation": read_table(Path(validation_path))}
    return task_from_tables(
        name,
        read_table(Path(path)),
        held,
        Columns(text, label, text_pair, group),
        kind,
        skip_empty=skip_empty,
        drop_labels=drop_labels,
        metrics=metrics,
    )


def read_table(path: Path) -> Table:
    """The rows of a file, as they stand in it: in a CSV file "NA", "null" and "007" are texts like any other.

    Raises OrthoLoraError where there is no such file, or it cannot be read as what its ending says.
    """
    path = path.expanduser()
    if not path.is_file():
        raise OrthoLoraError(f"there is no file {path}: expected the path of a {', '.join(ENDINGS)} file")
    match path.suffix.lower():
        case ".csv":
            rows = read_delimited(path, _text(path), ",")
        case ".tsv":
            rows = read_delimited(path, _text(path), "\t")
        case ".jsonl":
            rows = _json_lines(path, _text(path))
        case ".parquet":
            rows = _parquet(path)
        case _:
            raise OrthoLoraError(f"cannot tell the format of {path} from its ending: expected {', '.join(ENDINGS)}")
    return Table(str(path), rows)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OrthoLoraError(f"cannot read {path}: {error.strerror}") from error
    what = f"cannot read {path} as {path.suffix[1:]} in UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise OrthoLoraError(f"{what}: it is in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise OrthoLoraError(
            f"{what}: byte 0x{content[error.start]:02x} in line {line} is none, as in a file in Latin-1 or"
            " Windows-1252; save it as UTF-8"
        ) from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise OrthoLoraError(
            f"{what}: line {line} holds a NUL character, as in a file in UTF-16 or a damaged one; save it as UTF-8"
        )
    return text


def _json_lines(path: Path, text: str) -> "pd.DataFrame":
    """A row an object; a key that an object lacks is empty there."""
    import pandas as pd

    if text.lstrip().startswith("["):
        raise OrthoLoraError(
            f"{path} holds a JSON array: expected an object a line, as in "
            '{"text": "...", "label": "..."}; `jq -c ".[]"` writes an array of objects so'
        )
    records = [
        _record(path, number, line)
        for number, line in enumerate(io.StringIO(text, newline=None), start=1)  # JSON has no line ends inside
        if line.strip()
    ]
    names = dict.fromkeys(name for record in records for name in record)
    # As objects: among floats a whole number would lose its last digits.
    return pd.DataFrame({name: pd.Series([of.get(name) for of in records], dtype=object) for name in names})


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise OrthoLoraError(f"line {number} of {path} has the key {twice!r} more than once: rename or remove one")
        return record

    try:
        record = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise OrthoLoraError(f"cannot read {path} as jsonl in UTF-8: line {number} is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise OrthoLoraError(
            f"line {number} of {path} holds {line.strip()[:40]}: expected an object, as in "
            '{"text": "...", "label": "..."}'
        )
    return record


def _parquet(path: Path) -> "pd.DataFrame":
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Not as a data set, which would take columns from the names of folders.
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise OrthoLoraError(f"cannot read {path} as parquet: {str(error).strip()}") from error
    # What pandas made an index is a column like others, a whole number stays one beside an empty cell.
    rows: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    return rows
