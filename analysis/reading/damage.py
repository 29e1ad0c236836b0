"""Which files of a run's record count and can be read, and what is wrong with the others.

Where the manifest is torn or gone, the parts that are there tell: of two that hold rows of the same key the newer one,
for parts are put together, and cut when a run is resumed, under a new number before the old ones are removed. So no row
is taken twice. Roll-ups are then left to be summed anew.
"""

import os
import re
import stat
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.reading.connection import asking
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import open_regular, why
from ortho_lora.record.manifest import Manifest, Part, read_manifest
from ortho_lora.record.schema import ACTIVE_STATES, read_status
from ortho_lora.record.tables import ROLLUPS, SCHEMAS, TABLES

_OURS = re.compile(r"\..*|part-\d+\.parquet")  # what begins with a dot is being written
_PART = re.compile(r"part-(\d+)\.parquet")


def counted(run: Path) -> Manifest:
    """The parts that count: of the manifest, or where it cannot be read or is gone, of what is there."""
    manifest, _ = _counted(run)
    return manifest


def sound(run: Path, manifest: Manifest, tables: Collection[str], *, deep: bool = False) -> Manifest:
    """The parts of some tables that can be read; of a roll-up all or none, for what it lacks is told by the rows.

    Args:
        run: directory of the run.
        manifest: the parts that count.
        tables: whose parts are looked at.
        deep: whether to read all of each part, and not only what it says it holds.
    """
    for table in tables:
        parts = manifest.of(table)
        whole = [part for part in parts if damage(run / table, part, deep=deep) is None]
        if len(whole) < len(parts):
            manifest = manifest.replaced(table, [] if table in ROLLUPS else whole)
    return manifest


def damage(directory: Path, part: Part, *, deep: bool = False) -> str | None:
    """What is wrong with a part of the table in this directory, in words; None: nothing, as far as one looked."""
    path = directory / part.name
    try:
        now = path.stat()
    except OSError as error:
        return f"{path}: cannot be read ({why(error)}), so its rows are left out."
    if not stat.S_ISREG(now.st_mode):
        return f"{path}: not a file, so its rows are left out."
    key = (path, _table(directory), part.rows, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if (found := _damage(*key)) is None and (deep or key in _read_wholly):
        found = _deep_damage(*key)
        _read_wholly.add(key)
    return found


def _table(directory: Path) -> str:
    inner = f"{directory.parent.name}/{directory.name}"
    return inner if inner in ROLLUPS else directory.name


def problems(run: Path) -> list[str]:
    """What is wrong in a run's directory, one sentence a file; the rest of the record is shown."""
    manifest, problem = _counted(run)
    found = [problem] if problem else []
    for table in SCHEMAS:
        found += [words for part in manifest.of(table) if (words := damage(run / table, part))]
        try:
            with os.scandir(run / table) as entries:
                foreign = sorted(entry.name for entry in entries if not _OURS.fullmatch(entry.name))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # nothing of it is recorded
                found.append(f"{run / table}: cannot be listed ({why(error)}).")
            continue
        found += [f"{run / table / name}: not a part of the record, so it is left out." for name in foreign]
    return found


def _counted(run: Path) -> tuple[Manifest, str | None]:
    """The parts that count, and what is wrong with the manifest."""
    path = run / "manifest.json"
    try:
        manifest = read_manifest(run)
        if manifest.parts or path.exists() or _not_published(run):
            return manifest, None
        problem = f"{path}: is not there"
    except OrthoLoraError as error:
        problem = str(error).rstrip(".")
    except OSError as error:
        problem = f"{path}: cannot be read ({why(error)})"
    rebuilt, left = Manifest(), 0
    for table in TABLES:
        parts, replaced = _there(run, table)
        rebuilt, left = rebuilt.replaced(table, parts), left + replaced
    count = sum(map(len, rebuilt.parts.values()))
    if not count:
        return Manifest(), None if problem.endswith("not there") else f"{problem}; there are no parts to read instead."
    without = f", without the {left} whose rows are in newer ones" if left else ""
    return rebuilt, f"{problem}: rows are taken from all {count} parts that are there{without}."


def _not_published(run: Path) -> bool:
    """Whether the run's process lives, and has only begun to write."""
    status = read_status(run)
    return status is not None and status.state in ACTIVE_STATES and status.life(run) != "gone"


def _there(run: Path, table: str) -> tuple[list[Part], int]:
    """The parts of a table that hold rows which no newer one holds, in step order; and how many others there are."""
    try:
        names = [name for name in os.listdir(run / table) if _PART.fullmatch(name)]
    except OSError:
        return [], 0
    kept: list[Part] = []
    replaced = 0
    for name in sorted(names, key=lambda name: int(name[5:-8]), reverse=True):
        path = run / table / name
        if (part := _extent(path, os.lstat(path).st_ctime_ns)) is None or damage(run / table, part):
            continue
        newer = [one for one in kept if one.first <= part.last and one.last >= part.first]
        if newer and _share_rows(path, tuple(run / table / one.name for one in newer), table):
            replaced += 1
        else:
            kept.append(part)
    return sorted(kept, key=lambda part: (part.first, part.last, part.name)), replaced


@lru_cache(maxsize=2**12)
def _extent(path: Path, changed: int) -> Part | None:
    """A part as a manifest has it; None where it has no rows that can be read."""
    try:
        with open_regular(path) as file:
            steps = pq.read_table(file, columns=["step"])["step"]
        numbers = steps.to_numpy().astype(int)
        return Part(name=path.name, rows=len(numbers), first=numbers.min(), last=numbers.max())
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


@lru_cache(maxsize=2**12)  # parts are never written again
def _share_rows(part: Path, others: tuple[Path, ...], table: str) -> bool:
    """Whether one of the other parts has a row of the same key: all columns but those that measure."""
    key = ", ".join(f'"{field.name}"' for field in SCHEMAS[table] if _kind(field.type) not in _MEASURED)
    with asking() as connection:
        connection.read_parquet([str(part)]).create_view("part")
        connection.read_parquet([str(path) for path in others]).create_view("others")
        sql = f"SELECT 1 FROM (SELECT {key} FROM part INTERSECT SELECT {key} FROM others) LIMIT 1"
        return connection.execute(sql).fetchone() is not None


_read_wholly: set[tuple[Path, str, int, int, int, int]] = set()
"""Parts that were read to the end once: what was found then is told from then on."""


@lru_cache(maxsize=2**16)  # a page of a live run looks every two seconds, and a part never changes
def _damage(part: Path, table: str, rows: int, size: int, modified: int, changed: int) -> str | None:
    try:
        with pq.ParquetFile(part) as file:
            columns, found_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        return f"{part}: torn, or not a Parquet file ({_first_line(error)}), so its rows are left out."
    missing = [name for name in SCHEMAS[table].names if name not in columns.names]
    if missing:
        return f"{part}: has no column {', '.join(missing)}, so its rows are left out."
    for field in SCHEMAS[table]:
        if _kind(found := columns.field(field.name).type) != _kind(field.type):
            expected = f"expected {_kind(field.type)}, found {found}"
            return f"{part}: column {field.name}: {expected}, so its rows are left out."
    if found_rows != rows:
        return f"{part}: has {found_rows} rows, and {rows} were written, so it is left out."
    return None


@lru_cache(maxsize=2**12)
def _deep_damage(part: Path, table: str, rows: int, size: int, modified: int, changed: int) -> str | None:
    try:
        pq.read_table(part, columns=SCHEMAS[table].names)
    except (OSError, pa.ArrowException) as error:
        return f"{part}: torn ({_first_line(error)}), so its rows are left out."
    return None


_MEASURED = ("floats", "lists of floats")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _kind(kind: pa.DataType) -> str:
    """What a column holds, whatever its width and encoding."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_list(kind):
        return f"lists of {_kind(kind.value_type)}"
    if pa.types.is_floating(kind):
        return "floats"
    if pa.types.is_integer(kind):
        return "integers"
    if pa.types.is_boolean(kind):
        return "booleans"
    return "texts" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)
