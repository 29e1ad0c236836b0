"""Files that users bring: kept beside the runs, checked before anybody reads all of them.

<runs_dir>/.uploads/<name>   never overwritten: a run may go on with it
"""

import hashlib
import os
import re
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import is_text, open_regular, read_bytes, why
from ortho_lora.tasks.files import read_table

ENDINGS = ("csv", "tsv", "jsonl", "parquet")
MOST_MEGABYTES = 100
"""Of an uploaded file; of a Parquet file also when it is unpacked, ten times as many."""
ROWS_SHOWN = 100
_FIRST_BYTES, _MOST_BYTES = 2**16, 2**22  # that a look at a file reads of it


def folder(runs_dir: Path) -> Path:
    return runs_dir / ".uploads"


def uploaded(runs_dir: Path) -> list[str]:
    """Names of the files that were uploaded, the latest first."""
    found: dict[str, float] = {}
    for ending in ENDINGS:
        for path in folder(runs_dir).glob(f"[!.]*.{ending}"):
            with suppress(OSError):  # gone since it was listed, or a link to itself
                if path.is_file() and is_text(path.name):
                    found[path.name] = path.stat().st_mtime
    return sorted(found, key=lambda name: found[name], reverse=True)


def keep(runs_dir: Path, name: str, content: bytes) -> Path:
    """Keep a file that was uploaded, under its name or one like it, and return where.

    Args:
        runs_dir: directory of the runs.
        name: as the browser gave it; only letters, digits, `.`, `_` and `-` of its last part are kept.
        content: of the file.

    Raises:
        OrthoLoraError: it is too large, of another format than its ending says, or cannot be written.
    """
    if len(content) > MOST_MEGABYTES * 2**20:
        raise OrthoLoraError(
            f"{name}: {len(content) / 2**20:.0f} MB, expected at most {MOST_MEGABYTES}: give a file on this machine."
        )
    stem, ending = _safe(name)
    hidden = folder(runs_dir) / f".{uuid.uuid4().hex}.{ending}"  # of two at once each has its own
    try:
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(content)
        read(hidden)
        with FileLock(folder(runs_dir) / ".lock"):
            return _named(hidden, folder(runs_dir), stem, ending, hashlib.sha256(content).digest())
    except OSError as error:
        where = folder(runs_dir) / f"{stem}.{ending}"
        raise OrthoLoraError(f"{where}: cannot be written ({why(error)}): free space, or give a path.") from error
    except OrthoLoraError as error:
        raise OrthoLoraError(str(error).replace(str(hidden), name)) from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def _named(hidden: Path, directory: Path, stem: str, ending: str, digest: bytes) -> Path:
    """Give a file the first name that is free; where one of these names has its content, that stays."""
    path, count = directory / f"{stem}.{ending}", 1
    while os.path.lexists(path):
        with suppress(OSError):  # what stands there is no file
            if hashlib.sha256(read_bytes(path)).digest() == digest:
                return path
        count += 1
        path = directory / f"{stem}-{count}.{ending}"
    hidden.rename(path)
    return path


def head(path: Path) -> tuple[pd.DataFrame, int | None]:
    """The first rows of a file, and how many it has, None where that is not known: 4 MB of it are read at most.

    Raises:
        OrthoLoraError: there is none, it has no rows, or they cannot be read.
    """
    path = path.expanduser()
    try:
        found, count = _head_of_parquet(path) if path.suffix.lower() == ".parquet" else _head_of_text(path)
    except FileNotFoundError:
        read_table(path)  # says what is expected
        raise
    except (OSError, pa.ArrowException) as error:
        reason = why(error) if isinstance(error, OSError) else str(error).strip()
        raise OrthoLoraError(f"cannot read {path} as {path.suffix[1:]}: {reason}") from error
    if found.empty:
        raise OrthoLoraError(f"{path} has no rows: expected at least a few examples")
    return found, count


def _head_of_parquet(path: Path) -> tuple[pd.DataFrame, int | None]:
    with open_regular(path) as source, pq.ParquetFile(source, buffer_size=_FIRST_BYTES, pre_buffer=False) as file:
        batch = next(file.iter_batches(batch_size=ROWS_SHOWN, use_threads=False), None)
        found = batch.to_pandas() if batch is not None else pd.DataFrame()
        return found, file.metadata.num_rows


def _head_of_text(path: Path) -> tuple[pd.DataFrame, int | None]:
    size = _FIRST_BYTES
    while True:
        with open_regular(path) as file:
            content = file.read(size)
            more = bool(file.read(1))
        if more:  # whole lines, which a quoted field may still go on after
            content = content[: content.rfind(b"\n") + 1]
        enough = not more or size >= _MOST_BYTES
        try:
            found = _as_table(path, content)
        except OrthoLoraError:
            if enough:
                raise
        else:
            if enough or len(found) >= ROWS_SHOWN:
                return found.head(ROWS_SHOWN), None if more else len(found)
        size *= 8


def _as_table(path: Path, content: bytes) -> pd.DataFrame:
    """The rows of a part of a file, read as all of it would be."""
    with tempfile.TemporaryDirectory() as directory:
        part = Path(directory) / f"part{path.suffix}"
        part.write_bytes(content)
        try:
            return read_table(part).rows
        except OrthoLoraError as error:
            raise OrthoLoraError(str(error).replace(str(part), str(path))) from error


def read(path: Path) -> pd.DataFrame:
    """The rows of a file.

    Raises:
        OrthoLoraError: there is none, it has no rows, cannot be read, or would not fit.
    """
    if path.suffix.lower() == ".parquet" and path.is_file():
        _check_unpacked(path)
    rows = read_table(path).rows
    if rows.empty:
        raise OrthoLoraError(f"{path} has no rows: expected at least a few examples")
    return rows


def _safe(name: str) -> tuple[str, str]:
    last = re.split(r"[/\\]", name)[-1]
    stem, _, ending = last.rpartition(".")
    if ending.lower() not in ENDINGS:
        raise OrthoLoraError(f"{name}: expected a file that ends with .{', .'.join(ENDINGS)}")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:80] or "data", ending.lower()


def _check_unpacked(path: Path) -> None:
    """Raise before a small file is unpacked to more than there is room for."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError):
        return  # for the reader to say
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)) / 2**20
    if size > 10 * MOST_MEGABYTES:
        raise OrthoLoraError(f"{path}: {size:.0f} MB when unpacked, expected at most {10 * MOST_MEGABYTES}")
