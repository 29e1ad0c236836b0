"""Which files of a run's record can be read, and what is wrong with the others."""

import re
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import ROLLUPS, SCHEMAS, Manifest, part_files, read_manifest

_OURS = re.compile(r"\..*|part-\d+\.parquet")  # what begins with a dot is being written


def sound(run: Path) -> Manifest:
    """The parts that count and can be read; of a roll-up all or none, for what it lacks is told by the rows."""
    manifest = read_manifest(run)
    for table, parts in manifest.parts.items():
        whole = [part for part in parts if damage(run / table / part.name, table) is None]
        if len(whole) < len(parts):
            manifest = manifest.replaced(table, [] if table in ROLLUPS else whole)
    return manifest


def sound_parts(run: Path, table: str) -> list[Path]:
    """The parts of `table` that count and can be read, in step order."""
    return [part for part in part_files(run, table) if damage(part, table) is None]


def damage(part: Path, table: str) -> str | None:
    """What is wrong with a part, in words; None: nothing."""
    try:
        now = part.stat()
    except OSError as error:
        return f"{part}: cannot be read ({error.strerror}), so its rows are left out."
    return _damage(part, table, now.st_size, now.st_mtime_ns)


def problems(run: Path) -> list[str]:
    """What is wrong in a run's directory, one sentence a file; the rest of the record is shown."""
    found: list[str] = []
    for table in SCHEMAS:
        try:
            found += [words for part in part_files(run, table) if (words := damage(part, table))]
            foreign = [path for path in (run / table).glob("*") if not _OURS.fullmatch(path.name)]
        except OrthoLoraError as error:  # the manifest, which is one for all tables
            return [str(error)]
        found += [f"{path}: not a part of the record, so it is left out." for path in sorted(foreign)]
    return found


@lru_cache(maxsize=2**16)  # a page of a live run looks every two seconds, and a part never changes
def _damage(part: Path, table: str, size: int, modified: int) -> str | None:
    try:
        columns = pq.read_schema(part).names
    except (OSError, pa.ArrowInvalid) as error:
        return f"{part}: torn, or not a Parquet file ({str(error).splitlines()[0]}), so its rows are left out."
    missing = [name for name in SCHEMAS[table].names if name not in columns]
    return f"{part}: has no column {', '.join(missing)}, so its rows are left out." if missing else None
