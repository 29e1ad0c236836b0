"""Writes the record of a run: Parquet parts, the manifest that says which count, and the run's status."""

import importlib.metadata
import platform
import shutil
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import psutil
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from ortho_lora.errors import OrthoLoraError
from ortho_lora.layout import Gradients
from ortho_lora.schema import ACTIVE_STATES, TABLES, RunInfo, State, Status, check_run_id, read_status, replace_text
from ortho_lora.store import Batch, Store
from ortho_lora.tables import SCHEMAS, Event
from ortho_lora.writer import StatusFile, Writer, new_status

_VERSIONS = ("torch", "transformers", "peft", "numpy", "scikit-learn", "pyarrow", "ortho-lora")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()}


def check_free(runs_dir: Path, run_id: str) -> str:
    """Return `run_id`; raise OrthoLoraError where the name is not allowed, or a run carries it already."""
    if (runs_dir / check_run_id(run_id)).exists():
        raise OrthoLoraError(f"run {run_id!r} exists in {runs_dir}: choose another --name, or delete it.")
    return run_id


def lock_run(run_dir: Path) -> FileLock:
    """Take the right to write a run; the system gives it back when the process ends, however it ends.

    Raises:
        OrthoLoraError: another process writes it, or the directory cannot be written.
    """
    lock = FileLock(run_dir / "lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OrthoLoraError(f"{run_dir}: another process is writing this run: wait for its end, or stop it.") from None
    except OSError as error:
        raise OrthoLoraError(
            f"{run_dir}: cannot be locked ({error.strerror}): choose a directory that you may write."
        ) from error
    return lock


class Recorder:
    """Makes a run's directory, collects rows, and has them written in parts, each complete or absent, in step order.

    A thread of its own writes them, so that training waits for the disk only where it brings rows faster than the
    disk takes them. As a context manager it says at the end how the run went. Nothing is made before `begin`.

        with Recorder("runs/mine") as recorder:
            surgeon = OrthoLoRA(model, tasks, recorder=recorder)
            ...

    Any method may raise OrthoLoraError where the disk refused what came before: it says what, where and what to do.
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
        self._choose(total, flush_rows, flush_seconds)

    def _choose(self, total: int, flush_rows: int, flush_seconds: float) -> None:
        self.total, self.flush_rows, self.flush_seconds = total, flush_rows, flush_seconds
        self.begun = self._closed = False
        self._batch = Batch()  # rows that wait
        self._counts = dict.fromkeys(TABLES, 0)
        self._metrics: dict[str, dict[str, dict[str, float]]] = {}
        self._last_flush = time.monotonic()

    def begin(self, info: RunInfo) -> None:
        """Make the directory, with the run's identity, and lock it.

        Raises:
            OrthoLoraError: it exists by now, or cannot be written.
        """
        check_free(self.run_dir.parent, info.run_id)
        status = self._new_status()
        # Made under a hidden name and renamed: whoever looks sees a whole run or none.
        hidden = self.run_dir.parent / f".{info.run_id}.{status.pid}"
        try:
            hidden.mkdir(parents=True)
            for table in SCHEMAS:
                (hidden / table).mkdir(parents=True)
            replace_text(hidden / "run.json", info.model_dump_json(indent=1))
            replace_text(hidden / "status.json", status.model_dump_json(indent=1))
            hidden.rename(self.run_dir)
        except OSError as error:
            shutil.rmtree(hidden, ignore_errors=True)
            raise OrthoLoraError(
                f"{self.run_dir}: cannot be made ({error.strerror}): choose a --runs-dir you may write."
            ) from error
        self._start(lock_run(self.run_dir), Store(self.run_dir, self.flush_rows), status)

    @classmethod
    def resume(
        cls,
        run_dir: Path,
        lock: FileLock,
        before: Mapping[str, int],
        *,
        total: int,
        flush_rows: int,
        flush_seconds: float,
    ) -> Self:
        """Go on with a run that was interrupted.

        Args:
            run_dir: directory of the run.
            lock: of `lock_run`; the recorder takes it over.
            before: by table, the step before which rows stay; later ones are dropped.
            total: with `flush_rows` and `flush_seconds` as for a new one.

        Raises:
            OrthoLoraError: a part cannot be read, or the directory cannot be written.
        """
        recorder = cls.__new__(cls)
        recorder.run_dir = run_dir
        recorder._choose(total, flush_rows, flush_seconds)
        former = read_status(run_dir)
        recorder._metrics = former.metrics if former else {}
        store = Store(run_dir, flush_rows, before)
        status = recorder._new_status()
        status.step = before["steps"]
        recorder._start(lock, store, status)
        recorder._status.write()
        return recorder

    def _new_status(self) -> Status:
        process = psutil.Process()
        return new_status(self.total, process.pid, process.create_time())

    def _start(self, lock: FileLock, store: Store, status: Status) -> None:
        self._lock = lock
        self._status = StatusFile(self.run_dir / "status.json", status)
        self._writer = Writer(store, self._status)
        self.begun = True
        # A recorder that nobody closes leaves neither a thread nor a lock behind.
        self._release = weakref.finalize(self, _release, self._writer, lock)

    def close(self, state: State = "finished", message: str = "") -> None:
        """Write what waits, say how the run ended, and give the run free; the second time, nothing."""
        if not self.begun or self._closed:
            return
        self._closed = True
        try:
            self._settle()
        except OrthoLoraError as error:
            state, message = "failed", message or str(error)
            raise
        finally:
            self._release()
            with suppress(OSError):  # a disk that refuses even this has been reported by `finish`
                self._say_at_once(state, phase="done", message=message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        state, message = _end(error)
        if self.begun and self._status.status.state not in ACTIVE_STATES:  # somebody has said it already
            state, message = self._status.status.state, self._status.status.message
        try:
            self.close(state, message)
        except OrthoLoraError:
            if error is None:  # else that one comes first
                raise

    def add(self, table: str, **columns: ArrayLike) -> None:
        """Add rows to a table but `pairs` and `norms`: arrays of one length, or scalars that hold for all of them.

        NaN is null, and None as a name. Waits where rows come without `flush_if_due` and faster than they are written.
        """
        arrays = dict(zip(columns, np.broadcast_arrays(*columns.values()), strict=True))
        self._batch.rows.setdefault(table, []).append(arrays)
        if table == "metrics":
            self._remember(*(arrays[name].tolist() for name in ("split", "task", "metric", "value")))
        self._added(table, len(next(iter(arrays.values()))))

    def event(self, step: int, event: Event, task: str | None = None, reason: str = "") -> None:
        """Add a row to `events`: what went wrong in a step, with the task whose it was where there is one."""
        self.add("events", step=step, event=event, task=np.array([task], object), reason=reason)

    def _remember(self, splits: list[str], tasks: list[str], metrics: list[str], values: list[float]) -> None:
        """Have the status say the last values: who lists many runs opens none of their tables."""
        for split, task, metric, value in zip(splits, tasks, metrics, values, strict=True):
            if np.isfinite(value):
                self._metrics.setdefault(split, {}).setdefault(task, {})[metric] = value

    def add_gradients(self, gradients: Gradients) -> None:
        """Add what a step measured, its rows of `pairs` and `norms`; waits as `add`."""
        self._batch.gradients.append(gradients)
        self._added("pairs", len(gradients.layout.pairs["layer"]))
        self._added("norms", len(gradients.layout.norms["layer"]))

    def _added(self, table: str, rows: int) -> None:
        self._counts[table] += rows
        if self.begun:
            self._writer.check()
            self._status.beat()
            if self._counts[table] >= 2 * self.flush_rows:
                self._hand_over()

    def flush_if_due(self) -> None:
        """Have the rows written where enough have come, or enough time has gone by; call it between two steps.

        Waits only while the writer has more than one such batch before it.
        """
        self._writer.check()
        rows = max(self._counts.values())
        if rows >= self.flush_rows or (rows and time.monotonic() - self._last_flush >= self.flush_seconds):
            self._hand_over()

    def flush(self) -> None:
        """Return when all rows are on disk and published."""
        self._hand_over()
        self._writer.wait()

    def _settle(self) -> None:
        self._hand_over()
        self._writer.finish()

    def _hand_over(self) -> None:
        if any(self._counts.values()):
            self._writer.put(self._batch)
        self._batch = Batch()
        self._counts = dict.fromkeys(TABLES, 0)
        self._last_flush = time.monotonic()

    def progress(
        self, step: int, losses: dict[str, float], eta_seconds: float | None = None, *, phase: str = "training"
    ) -> Status:
        """Say how many steps are done; it is on disk within a second or two."""
        self._writer.check()
        return self._status.say(
            state="running",
            step=step,
            total=self.total,
            phase=phase,
            losses=losses,
            metrics=self._metrics,
            eta_seconds=eta_seconds,
        )

    def status(self, state: State, **fields: object) -> Status:
        """Replace `status.json`, and return what it says; of the end only when all rows are on disk and in order."""
        if not self._closed:
            self._writer.check()
            if state not in ACTIVE_STATES:
                self._settle()
        return self._say_at_once(state, **fields)

    def _say_at_once(self, state: State, **fields: object) -> Status:
        said = self._status.say(
            **{"state": state, "total": self.total, "eta_seconds": None, "metrics": self._metrics} | fields
        )
        self._status.write()
        return said


def _release(writer: Writer, lock: FileLock) -> None:
    writer.close()
    lock.release()


def _end(error: BaseException | None) -> tuple[State, str]:
    """State and message of a run that ended with this error."""
    if error is None:
        return "finished", ""
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "interrupted"
    return "failed", str(error) or type(error).__name__
