"""The files of an export: which there are, where they go, and how they are written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.output.data import DATA, check_part, data_of, frame_of
from analysis.reading.database import Selection
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import replace_text

Format = Literal["csv", "parquet"]

_FORMULA = ("=", "+", "-", "@", "\t")


@dataclass(frozen=True)
class Plan:
    """What is exported to where."""

    runs: tuple[Path, ...]
    paths: dict[str, Path]  # file of the data of each name
    every: bool  # nobody named them: those that cannot be had are left out
    form: Format


def planned(runs: Sequence[Path], names: Sequence[str], output: Path | None, form: Format | None) -> Plan:
    """Where the data of these names (none: all) go.

    Args:
        runs: directories of runs, at least one.
        names: some of `DATA`.
        output: a file where there is one name, else a directory; None: named after the run, in the current directory.
        form: of the files; None: as the file is named, else csv.

    Raises:
        OrthoLoraError: there is no such name, or the format and the place do not suit each other.
    """
    for name in names:
        data_of(name)
    wanted = tuple(dict.fromkeys(names)) or tuple(DATA)
    stem = runs[0].name if len(runs) == 1 else "runs"
    single = len(wanted) == 1 and not (output and output.is_dir())
    named: Format | None = "parquet" if output and output.suffix == ".parquet" else None
    if str(output) == "-" and (not single or form == "parquet"):
        raise OrthoLoraError("standard output takes one --what, as CSV; give -o a file or a directory for more.")
    if single and output and output.suffix in (".csv", ".parquet") and form and output.suffix != f".{form}":
        raise OrthoLoraError(f"{output}: named like another format than {form}; change one of the two.")
    if not single and output and (output.is_file() or output.suffix in (".csv", ".parquet")):
        raise OrthoLoraError(f"{output}: a file cannot hold {len(wanted)} tables; give a directory, or one --what.")
    chosen: Format = form or (named if single and named else "csv")
    if single:
        paths = {wanted[0]: output or Path(f"{stem}-{wanted[0]}.{chosen}")}
    else:
        paths = {name: (output or Path(f"{stem}-export")) / f"{name}.{chosen}" for name in wanted}
    return Plan(tuple(runs), paths, not names, chosen)


def csv_text(frame: pd.DataFrame) -> str:
    """As CSV: a header, UTF-8, full precision, nothing where a value is null.

    A spreadsheet would run a name that begins like a formula, so such a text gets an apostrophe in front; and readers
    do not agree on a lone carriage return, so it becomes a space.
    """

    def guard(value: object) -> str:
        text = str(value).replace("\r", " ")
        return f"'{text}" if text.startswith(_FORMULA) else text

    guarded = {
        column: values.map(guard, na_action="ignore")
        for column, values in frame.items()
        if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values))
    }
    text: str = frame.assign(**guarded).to_csv(index=False, lineterminator="\n")
    return text


def write_frame(frame: pd.DataFrame, path: Path, form: Format) -> None:
    """Write a file that a reader sees whole or not at all.

    Raises:
        OrthoLoraError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "csv":
            replace_text(path, csv_text(frame))
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, path)
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be written ({error.strerror}).") from error


def export(
    plan: Plan, selection: Selection, pair: tuple[str, str] | None, force: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write what is planned.

    Args:
        plan: as of `planned`.
        selection, pair: the part of the records.
        force: replace files that exist.

    Returns:
        Name, path, rows and columns of each file that was written, and in a sentence each what could not be had.

    Raises:
        OrthoLoraError: as of `frame_of`, but where everything is exported, what cannot be had is left out; a file
            exists, which is found before any is written; or a file cannot be written.
    """
    for path in plan.paths.values():
        if path.exists() and not force:
            raise OrthoLoraError(f"{path}: exists; give another -o, or --force to replace it.")
    for run in plan.runs:
        check_part(run, selection, pair)
    written, left_out = [], []
    for name, path in plan.paths.items():
        try:
            frame = frame_of(name, plan.runs, selection, pair)
        except OrthoLoraError as error:
            if not plan.every:
                raise
            left_out.append(str(error))
            continue
        write_frame(frame, path, plan.form)
        written.append({"name": name, "path": str(path), "rows": len(frame), "columns": list(frame.columns)})
    return written, left_out
