"""Files that users bring: kept beside the runs, checked before anybody reads all of them.

<runs_dir>/.uploads/<name>   never overwritten: a run may go on with it
"""

import hashlib
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.files import read_table

ENDINGS = ("csv", "tsv", "jsonl", "parquet")
MOST_MEGABYTES = 100
"""Of an uploaded file; of a Parquet file also when it is unpacked, ten times as many."""


def folder(runs_dir: Path) -> Path:
    return runs_dir / ".uploads"


def uploaded(runs_dir: Path) -> list[str]:
    """Names of the files that were uploaded, the latest first."""
    found = [path for ending in ENDINGS for path in folder(runs_dir).glob(f"[!.]*.{ending}") if path.is_file()]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


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
    digest = hashlib.sha256(content).digest()
    path, count = folder(runs_dir) / f"{stem}.{ending}", 1
    while path.exists():
        if hashlib.sha256(path.read_bytes()).digest() == digest:
            return path
        count += 1
        path = path.with_name(f"{stem}-{count}.{ending}")
    hidden = path.with_name(f".new.{path.name}")
    try:
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(content)
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be written ({error.strerror}): free space, or give a path.") from error
    try:
        read(hidden)
        hidden.rename(path)
    except OrthoLoraError as error:
        raise OrthoLoraError(str(error).replace(str(hidden), name)) from error
    finally:
        hidden.unlink(missing_ok=True)
    return path


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
