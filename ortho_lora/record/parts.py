"""Parts of a record: written whole or not at all, cut, put together, and published. Importable without torch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import replace_text, sync_directory
from ortho_lora.record.manifest import Manifest, Part, read_manifest

_SOUGHT = ("step", "metric", "target")  # what readers skip rows by
_SOUGHT_ROWS = 2**17  # of a row group of snapshots: a question is of one metric, and of tasks or of targets
FEWEST_TOGETHER = 32
"""Small parts that are put together while a run goes on."""


def write_part(path: Path, table: pa.Table) -> Part:
    """Write rows in step order as one part: under a temporary name, to disk, and then under its own."""
    schema = table.schema
    lists = [field.name for field in schema if pa.types.is_list(field.type)]
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    temporary = path.with_name(f".{path.name}")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=1,
                use_dictionary=[name for name in schema.names if name not in {*floats, *lists}],
                use_byte_stream_split=[*floats, *(f"{name}.list.element" for name in lists)],
                row_group_size=_SOUGHT_ROWS if "target" in schema.names else max(table.num_rows, 1),
                write_statistics=[name for name in _SOUGHT if name in schema.names],
            )
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):  # half a part only takes space
            temporary.unlink()
        # Arrow's own say neither which file nor, in words, why.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno or 0, why, str(path)) from error
    os.replace(temporary, path)
    sync_directory(path.parent)
    steps = table["step"].to_numpy()
    ends = table["step_end"].to_numpy() if "step_end" in schema.names else steps
    return Part(name=path.name, rows=len(steps), first=int(steps[0]), last=int(ends.max()))


def refuse_link(directory: Path) -> None:
    """Raise OrthoLoraError where the parts of a run would be those of another."""
    if directory.is_symlink():
        raise OrthoLoraError(
            f"{directory}: is a link to {directory.resolve()}, whose files are not this run's to drop or replace: copy"
            " what it leads to here."
        )


def publish(run_dir: Path, manifest: Manifest) -> None:
    """Make its parts those that count, in one moment. They are on disk by then."""
    replace_text(run_dir / "manifest.json", manifest.model_dump_json())
    sync_directory(run_dir)


def next_number(directory: Path) -> int:
    """Greater than that of any part that is or was: a reader may still hold the name."""
    numbers = [int(path.stem.removeprefix("part-")) for path in directory.glob("part-[0-9]*.parquet")]
    return max(numbers, default=-1) + 1


def part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def together(parts: Sequence[Part], rows: int, fewest: int = 2) -> Iterator[tuple[int, int]]:
    """Which neighbouring parts to put together: from the first of them to before the second number.

    Args:
        parts: in step order.
        rows: of a part that is large enough; parts together have at most so many.
        fewest: parts that are put together though more rows would fit.
    """
    begin = count = 0
    for place, part in enumerate(parts):
        if count + part.rows > rows:
            if place - begin > 1:
                yield begin, place
            begin, count = place, 0
        count += part.rows
    if len(parts) - begin >= max(fewest, 2):
        yield begin, len(parts)


def cut(run_dir: Path, before: Mapping[str, int]) -> Manifest:
    """Drop the rows of each table from step `before[table]` on, and what was half written or does not count.

    Returns:
        What counts now.

    Raises:
        OrthoLoraError: a part cannot be read, or the directory cannot be written.
    """
    try:
        manifest = read_manifest(run_dir)
        for table in before:
            refuse_link(run_dir / table)
            parts = manifest.of(table)
            kept = [_cut_part(run_dir / table, part, before[table]) for part in parts]
            manifest = manifest.replaced(table, [part for part in kept if part])
        publish(run_dir, manifest)
        for table in before:
            (run_dir / table).mkdir(parents=True, exist_ok=True)  # an older version may not have had it
            names = {part.name for part in manifest.of(table)}
            for path in (run_dir / table).iterdir():
                if path.name not in names and path.name.lstrip(".").startswith("part-"):
                    path.unlink()
        for path in run_dir.glob(".*.json.*"):
            path.unlink()
    except OSError as error:
        raise OrthoLoraError(
            f"{error.filename or run_dir}: cannot go on with the record ({error.strerror or error}): free space, or"
            " make the directory writable."
        ) from error
    return manifest


def _cut_part(directory: Path, part: Part, before: int) -> Part | None:
    """The part with the rows of earlier steps alone: this one, a new one, or none."""
    if part.first >= before:
        return None
    path = directory / part.name
    try:
        if part.last < before:
            pq.read_metadata(path)
            return part
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise OrthoLoraError(f"{path}: cannot be read as a part of a record ({error}).") from error
    ends = table["step_end" if "step_end" in table.schema.names else "step"].to_numpy()
    kept = table.filter(pa.array(ends < before))
    return write_part(directory / part_name(next_number(directory)), kept) if kept.num_rows else None
