"""What puts a run on disk: one thread that writes parts and status, while training goes on."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import PATIENCE, TABLES, Status, replace_text, sync_directory

Chunks = Sequence[Mapping[str, NDArray[Any]]]
Batch = Mapping[str, Chunks]
"""Rows by table: each chunk has all columns of its table, as arrays of one length."""

STATUS_SECONDS = 1.0
"""Seconds between two looks at whether `status.json` is out of date."""


class StatusFile:
    """`status.json`: said by the training thread, written by whichever thread has time for it."""

    def __init__(self, path: Path, status: Status) -> None:
        self.path, self.status = path, status
        self._lock = threading.Lock()
        self._sign = time.monotonic()
        self._written = status.heartbeat

    def say(self, **fields: object) -> Status:
        """Change what is known. The heartbeat is a sign of the training thread: a live writer proves no progress."""
        with self._lock:
            now = time.monotonic()
            # A step or an evaluation that once took minutes is no sign of trouble the next time.
            patience = max(self.status.patience_seconds, 3 * (now - self._sign))
            self._sign = now
            known = self.status.model_dump() | {"heartbeat": time.time(), "patience_seconds": patience}
            self.status = Status.model_validate(known | fields)
            return self.status

    def beat(self) -> None:
        """Say nothing but that the training thread goes on."""
        with self._lock:
            self._sign = time.monotonic()
            self.status.heartbeat = time.time()

    def write(self, *, only_if_changed: bool = False) -> None:
        """Replace the file."""
        with self._lock:  # of two writes the one with the newer status is last
            if only_if_changed and self.status.heartbeat <= self._written:
                return
            replace_text(self.path, self.status.model_dump_json(indent=1))
            self._written = self.status.heartbeat


class Writer:
    """A thread that writes batches of rows in the order in which they come, and then publishes them.

    One batch waits while another is written; who brings a third one waits as well, so that memory stays bounded and
    no row is lost. An error of the disk is raised where training next turns to the writer; what was published stays.
    """

    def __init__(self, run_dir: Path, status: StatusFile) -> None:
        self.run_dir, self.status = run_dir, status
        self.manifest = read_manifest(run_dir)
        self._encoder = _Encoder()
        self._numbers = {table: _next_number(run_dir / table) for table in TABLES}
        self._condition = threading.Condition()
        self._waiting: deque[Batch] = deque()
        self._busy = self._ending = False
        self._error: OrthoLoraError | None = None
        self._thread = threading.Thread(target=self._work, name=f"writer of {run_dir.name}", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Have rows written.

        Raises:
            OrthoLoraError: something could not be written.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._error or not self._waiting)
            self.check()
            self._waiting.append(batch)
            self._condition.notify_all()

    def wait(self) -> None:
        """Return when all rows are on disk and published.

        Raises:
            OrthoLoraError: something could not be written.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._error or not (self._waiting or self._busy))
            self.check()

    def check(self) -> None:
        """Raise OrthoLoraError where something could not be written, or nothing will be any more."""
        if self._error is not None:
            raise self._error
        if self._ending:
            raise OrthoLoraError(f"{self.run_dir}: the recorder is closed: make another one for another run.")

    def close(self) -> None:
        """Write what waits, and end the thread. Errors stay for `check`."""
        with self._condition:
            self._ending = True
            self._condition.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._ending, timeout=STATUS_SECONDS)
                if self._ending and not self._waiting:
                    return
                batch = self._waiting.popleft() if self._waiting else None
                self._busy = batch is not None
                self._condition.notify_all()
            error = self._attempt(batch)
            with self._condition:
                self._error, self._busy = error, False
                self._condition.notify_all()
            if error:
                return

    def _attempt(self, batch: Batch | None) -> OrthoLoraError | None:
        try:
            if batch:
                self._write(batch)
            self.status.write(only_if_changed=True)
        except OSError as error:
            return OrthoLoraError(
                f"{error.filename or self.run_dir}: the record cannot be written ({error.strerror or error}): free"
                " space, or make the directory writable. What was recorded before is kept."
            )
        except Exception as error:  # of another kind, as a column of the wrong type: whoever trains must hear of it
            failed = OrthoLoraError(f"{self.run_dir}: rows cannot be recorded ({error}).")
            failed.__cause__ = error
            return failed
        return None

    def _write(self, batch: Batch) -> None:
        """Write each table's rows as one part, then publish the parts."""
        manifest = {table: list(names) for table, names in self.manifest.items()}
        for table, chunks in batch.items():
            name = f"part-{self._numbers[table]:06d}.parquet"
            self._numbers[table] += 1
            write_part(self.run_dir / table / name, self._encoder.table(table, chunks))
            manifest[table].append(name)
        publish(self.run_dir, manifest)
        self.manifest = manifest


def read_manifest(run_dir: Path) -> dict[str, list[str]]:
    """Names of the parts that count, by table."""
    path = run_dir / "manifest.json"
    named: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {table: named.get(table, []) for table in TABLES}


def publish(run_dir: Path, manifest: Mapping[str, Sequence[str]]) -> None:
    """Make these the parts that count, in one moment. They are on disk by then."""
    replace_text(run_dir / "manifest.json", json.dumps(manifest))
    sync_directory(run_dir)


def write_part(path: Path, table: pa.Table) -> None:
    """Write a part under a temporary name, flush it to disk, and rename it."""
    schema = table.schema
    temporary = path.with_name(f".{path.name}")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=1,
                use_dictionary=[field.name for field in schema if not pa.types.is_floating(field.type)],
                use_byte_stream_split=[field.name for field in schema if pa.types.is_floating(field.type)],
                row_group_size=max(table.num_rows, 1),
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


def cut(run_dir: Path, before: Mapping[str, int]) -> None:
    """Drop the rows of each table from step `before[table]` on, and what was half written or does not count.

    Raises:
        OrthoLoraError: a part cannot be read, or the directory cannot be written.
    """
    try:
        manifest = {
            table: [name for old in names if (name := _cut_part(run_dir / table / old, before[table])) is not None]
            for table, names in read_manifest(run_dir).items()
        }
        publish(run_dir, manifest)
        for table, names in manifest.items():
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


def _cut_part(path: Path, before: int) -> str | None:
    """Name of the part with the rows of earlier steps alone: of this one, a new one, or none."""
    try:
        steps = pq.read_table(path, columns=["step"])["step"].to_numpy()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise OrthoLoraError(f"{path}: cannot be read as a part of a record ({error}).") from error
    count = int((steps < before).sum())  # in step order
    if count == len(steps):
        return path.name
    if not count:
        return None
    name = f"part-{_next_number(path.parent):06d}.parquet"
    write_part(path.with_name(name), pq.read_table(path).slice(0, count))
    return name


class _Encoder:
    """Turns rows into Arrow tables. The names of a step's rows are mostly those of the step before: encoded once."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[object, pa.DictionaryArray]] = {}

    def table(self, table: str, chunks: Chunks) -> pa.Table:
        schema = TABLES[table]
        columns = []
        for field in schema:
            values = [chunk[field.name] for chunk in chunks]
            if pa.types.is_dictionary(field.type):
                columns.append(pa.concat_arrays([self._names((table, field.name), names) for names in values]))
            else:
                array = pa.array(np.concatenate(values), from_pandas=pa.types.is_floating(field.type))
                columns.append(array.cast(field.type))
        return pa.Table.from_arrays(columns, schema=schema)

    def _names(self, column: tuple[str, str], names: NDArray[Any]) -> pa.DictionaryArray:
        key = (names.dtype, names.tobytes()) if names.dtype.kind == "U" else None  # bytes of objects are addresses
        known = self._last.get(column)
        if key is None or known is None or known[0] != key:
            known = self._last[column] = (key, pa.array(names, pa.string()).dictionary_encode())
        return known[1]


def _next_number(directory: Path) -> int:
    """Greater than that of any part that is or was: a reader may still hold the name."""
    numbers = [int(path.stem.removeprefix("part-")) for path in directory.glob("part-[0-9]*.parquet")]
    return max(numbers, default=-1) + 1


def new_status(total: int, pid: int, started: float) -> Status:
    """Of a run that begins, in process `pid` that started at `started` (seconds since the epoch)."""
    return Status(
        state="running",
        total=total,
        pid=pid,
        process_start_time=started,
        heartbeat=time.time(),
        patience_seconds=PATIENCE,
    )
