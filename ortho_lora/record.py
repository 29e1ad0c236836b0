"""Writes the record of a run: Parquet parts, the manifest that says which count, and the run's status."""

import importlib.metadata
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import TABLES, RunInfo, State, Status, check_run_id, replace_text

_VERSIONS = ("torch", "transformers", "peft", "numpy", "scikit-learn", "pyarrow", "ortho-lora")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()}


def check_free(runs_dir: Path, run_id: str) -> str:
    """Return `run_id`; raise OrthoLoraError where the name is not allowed, or a run carries it already."""
    if (runs_dir / check_run_id(run_id)).exists():
        raise OrthoLoraError(f"run {run_id!r} exists in {runs_dir}: choose another --name, or delete it.")
    return run_id


class Recorder:
    """Makes a run's directory, collects rows, and writes them in parts, each complete or absent, in step order.

    As a context manager it says at the end how the run went. Nothing is made before `begin`.

        with Recorder("runs/mine") as recorder:
            surgeon = OrthoLoRA(model, tasks, recorder=recorder)
            ...
    """

    def __init__(
        self, run_dir: Path | str, *, total: int = 0, flush_rows: int = 1_000_000, flush_seconds: float = 2.0
    ) -> None:
        """Choose where to record.

        Args:
            run_dir: directory of the run, which must not exist.
            total: steps that the run will have; 0: not known.
            flush_rows: rows of a table after which a part is written.
            flush_seconds: seconds after which a part is written.

        Raises:
            OrthoLoraError: the run's name is not allowed or taken.
        """
        self.run_dir = Path(run_dir)
        check_free(self.run_dir.parent, self.run_dir.name)
        self.total, self.flush_rows, self.flush_seconds = total, flush_rows, flush_seconds
        self.begun = False
        self.manifest: dict[str, list[str]] = {table: [] for table in TABLES}
        self._rows: dict[str, list[dict[str, NDArray[Any]]]] = {table: [] for table in TABLES}
        self._last_flush = self._last_progress = time.monotonic()
        process = psutil.Process()
        self._process = (process.pid, process.create_time())
        self._step = 0

    def begin(self, info: RunInfo) -> None:
        """Make the directory, with the run's identity.

        Raises:
            OrthoLoraError: it exists by now, or cannot be written.
        """
        check_free(self.run_dir.parent, info.run_id)
        # Made under a hidden name and renamed: whoever looks sees a whole run or none.
        hidden = self.run_dir.parent / f".{info.run_id}.{self._process[0]}"
        try:
            hidden.mkdir(parents=True)
            for table in TABLES:
                (hidden / table).mkdir()
            replace_text(hidden / "run.json", info.model_dump_json(indent=1))
            replace_text(hidden / "status.json", self._status("running").model_dump_json(indent=1))
            hidden.rename(self.run_dir)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            raise OrthoLoraError(
                f"{self.run_dir}: cannot be made ({error.strerror}): choose a --runs-dir you may write."
            ) from error
        self.begun = True

    def close(self, state: State = "finished", message: str = "") -> None:
        """Write what waits, and say how the run ended."""
        if self.begun:
            self.flush()
            self.status(state, step=self._step, phase="done", message=message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close("failed" if error else "finished", "" if error is None else str(error) or type(error).__name__)

    def add(self, table: str, **columns: ArrayLike) -> None:
        """Add rows to a table: arrays of one length, or scalars that hold for all of them; NaN is null."""
        arrays = np.broadcast_arrays(*columns.values())
        self._rows[table].append(dict(zip(columns, arrays, strict=True)))

    def flush_if_due(self) -> None:
        """Flush where enough rows have come, or enough time has gone by."""
        rows = max(sum(len(chunk["step"]) for chunk in chunks) for chunks in self._rows.values())
        if rows >= self.flush_rows or (rows and time.monotonic() - self._last_flush >= self.flush_seconds):
            self.flush()

    def flush(self) -> None:
        """Write all waiting rows, each table's as one part, then publish the parts."""
        for table, chunks in self._rows.items():
            if not chunks:
                continue
            schema = TABLES[table]
            columns = [_column(np.concatenate([chunk[field.name] for chunk in chunks]), field.type) for field in schema]
            name = f"part-{len(self.manifest[table]):06d}.parquet"
            _write(self.run_dir / table / name, pa.Table.from_arrays(columns, schema=schema))
            self.manifest[table].append(name)
            chunks.clear()
        replace_text(self.run_dir / "manifest.json", json.dumps(self.manifest))
        self._last_flush = time.monotonic()

    def progress(self, step: int, losses: dict[str, float]) -> None:
        """Say, at most once a second, how many steps are done."""
        self._step = step
        if time.monotonic() - self._last_progress >= 1:
            self._last_progress = time.monotonic()
            self.status("running", step=step, phase="training", losses=losses)

    def status(self, state: State, **fields: object) -> Status:
        """Replace `status.json`, and return what it says."""
        status = self._status(state, **fields)
        replace_text(self.run_dir / "status.json", status.model_dump_json(indent=1))
        return status

    def _status(self, state: State, **fields: object) -> Status:
        pid, started = self._process
        known = {"state": state, "total": self.total, "pid": pid, "process_start_time": started}
        known["heartbeat"] = time.time()
        return Status.model_validate(known | fields)


def _column(values: NDArray[Any], dtype: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(dtype):
        names, indices = np.unique(values, return_inverse=True)
        return pa.DictionaryArray.from_arrays(
            pa.array(indices, dtype.index_type), pa.array(names.tolist(), pa.string())
        )
    return pa.array(values, from_pandas=pa.types.is_floating(dtype)).cast(dtype)


def _write(path: Path, table: pa.Table) -> None:
    """Write a part under a temporary name, flush it to disk, and rename it."""
    schema = table.schema
    temporary = path.with_name(f".{path.name}")
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
    os.replace(temporary, path)
