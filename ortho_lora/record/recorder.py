"""Writes the record of a run: Parquet parts, the manifest that says which count, and the run's status."""

import logging
import shutil
import threading
import time
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import ending
from ortho_lora.record.admission import Places, check_free, lock_run, refuse_another
from ortho_lora.record.files import replace_text
from ortho_lora.record.rows import Gradients
from ortho_lora.record.schema import ACTIVE_STATES, RunInfo, State, Status, read_run, read_status
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.record.store import Batch, Store
from ortho_lora.record.tables import SCHEMAS, TABLES, Event
from ortho_lora.record.writer import StatusFile, Writer, gone, new_status, refusal

log = logging.getLogger(__name__)


class Recorder:
    """Makes a run's directory, collects rows, and has them written in parts, each complete or absent, in step order.

    A thread of its own writes them, so that training waits for the disk only where it brings rows faster than the
    disk takes them. Nothing is made before `begin`. As a context manager it says at the end how the run went::

        with Recorder("runs/mine") as recorder:
            surgeon = OrthoLoRA(model, tasks, recorder=recorder)
            ...

    One that nobody closes does so where its process, its thread or its notebook's cell ends, as far as anything tells
    how that went (`ending`), or where the last reference to it goes away. A run without a single step has failed.

    Any method may raise OrthoLoraError where the disk refused what came before: it says what, where and what to do.
    """

    def __init__(
        self,
        run_dir: Path | str,
        *,
        total: int = 0,
        resume: bool = False,
        flush_rows: int = 1_000_000,
        flush_seconds: float = 2.0,
    ) -> None:
        """Choose where to record.

        Args:
            run_dir: directory of the run, which must not exist.
            total: steps that the run will have; 0: not known.
            resume: where the directory exists, go on with the run in it, if it is of the same training.
            flush_rows: rows of a table after which a part is written.
            flush_seconds: seconds after which a part is written.

        Raises:
            OrthoLoraError: the run's name is not allowed or taken.
        """
        self.run_dir = Path(run_dir).absolute()  # wherever its process goes
        self._resumes = resume and self.run_dir.exists()
        if not self._resumes:
            check_free(self.run_dir.parent, self.run_dir.name)
        self._choose(total, flush_rows, flush_seconds)

    def _choose(self, total: int, flush_rows: int, flush_seconds: float) -> None:
        self.total, self.flush_rows, self.flush_seconds = total, flush_rows, flush_seconds
        self.begun = self._closed = False
        self._batch = Batch()  # rows that wait
        self._counts = dict.fromkeys(TABLES, 0)
        self._places = Places({})
        self._metrics: dict[str, dict[str, dict[str, float]]] = {}
        self._last_flush = time.monotonic()
        self._lock: FileLock | None = None
        self._fed()

    def begin(self, info: RunInfo) -> None:
        """Make the directory, with the run's identity, and lock it; where it is begun, take what goes on with it.

        Raises:
            OrthoLoraError: it exists by now, or cannot be written; it is of another training.
        """
        if self.begun or self._resumes:
            refuse_another(self.run_dir, read_run(self.run_dir), info)
            if not self.begun:
                self._lock = lock_run(self.run_dir)
                self.begun = self._closed = True  # to be opened where the training goes on
                self._places = Places.of(self.run_dir)
            return
        check_free(self.run_dir.parent, info.run_id)
        status = new_status(self.total)
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
        recorder.run_dir = Path(run_dir).absolute()
        recorder._choose(total, flush_rows, flush_seconds)
        recorder._reopen(lock, before)
        return recorder

    def go_on(self, step: int) -> None:
        """Go on from a step: what was recorded of it and of later ones is dropped, and comes again.

        A recorder that was closed is opened again. Evaluations after `step` steps stay.

        Raises:
            OrthoLoraError: a part cannot be read, or the directory cannot be written.
        """
        if not self.begun:
            return
        before = dict.fromkeys(TABLES, step) | dict.fromkeys(("metrics", "predictions"), step + 1)
        if self._closed:
            self._reopen(self._lock or lock_run(self.run_dir), before)
        elif any(self._places.last.get(table, -1) >= first for table, first in before.items()):
            self.flush()
            self._writer.replace(lambda: Store(self.run_dir, self.flush_rows, before))
            self._places = Places({table: min(last, before[table] - 1) for table, last in self._places.last.items()})

    def _reopen(self, lock: FileLock, before: Mapping[str, int]) -> None:
        former = read_status(self.run_dir)
        self._metrics = former.metrics if former else {}
        store = Store(self.run_dir, self.flush_rows, before)
        status = new_status(self.total)
        status.step = before["steps"]
        self._closed = False
        self._places = Places.of(self.run_dir)
        self._start(lock, store, status)
        self._status.write()

    def _start(self, lock: FileLock, store: Store, status: Status) -> None:
        self._lock = lock
        self._status = StatusFile(self.run_dir / "status.json", status)
        self._writer = Writer(store, self._status)
        self.begun = True
        self._fed()
        ending.watch(self)

    def close(self, state: State | None = None, message: str = "") -> None:
        """Write what waits, say how the run ended, and give the run free; the second time, nothing.

        Args:
            state: None: finished, or failed where no row came.
            message: in words, for whoever looks.

        Raises:
            OrthoLoraError: something could not be written.
        """
        if not self.begun or self._closed:
            self._release()  # of a run that nothing was added to
            return
        if state is None:
            state, message = self._of_steps("finished", message)
        self._closed = True
        ending.forget(self)
        try:
            self._settle()
        except OrthoLoraError as error:
            state, message = "failed", message or str(error)
            raise
        finally:
            self._writer.close()
            self._release()
            with suppress(OrthoLoraError):  # a disk that refuses even this has been reported by `finish`
                self._say_at_once(state, phase="done", message=message)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _of_steps(self, state: State, message: str) -> ending.Ending:
        if state == "finished" and not any(last >= 0 for last in self._places.last.values()):
            return "failed", "no step was recorded: the training ended before its first step"
        return state, message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close(*self._said_or(ending.ending_of(error)))
        except OrthoLoraError:
            if error is None:  # else that one comes first
                raise

    def end(self, known: ending.Ending) -> None:
        """Close what nobody closed, as far as is known how it ended."""
        state, message = self._said_or(known)
        step = self._status.status.step
        if state == "finished" and step < self.total and self._status.status.state in ACTIVE_STATES:
            state, message = "stopped", f"ended after step {step} of {self.total}, and nobody closed its recorder"
        try:
            self.close(state, message)
        except OrthoLoraError as error:
            log.error("%s", error)

    def _said_or(self, known: ending.Ending) -> ending.Ending:
        """How it ended: as somebody has said already, or as is known."""
        if not self.begun or self._closed:
            return known
        status = self._status.status
        return self._of_steps(*known) if status.state in ACTIVE_STATES else (status.state, status.message)

    def flush_quietly(self) -> None:
        """Have all rows on disk, if the disk takes them: what it says is raised where the next row comes."""
        if self.begun and not self._closed:
            with suppress(OrthoLoraError):
                self.flush()

    def abandon(self) -> None:
        """Leave the run to the process that this one was forked from."""
        self._closed, self._lock = True, None
        self._writer.fail(
            OrthoLoraError(
                f"{self.run_dir}: is recorded by the process that this one was forked from, and by no other."
            )
        )

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or not self.begun:
            return
        if threading.current_thread() is self._writer.thread:  # which cannot wait for itself
            threading.Thread(target=self.end, args=[ending.known_ending(self)]).start()
        else:
            self.end(ending.known_ending(self))

    def add(self, table: str, **columns: ArrayLike) -> None:
        """Add rows to a table but `pairs` and `norms`: arrays of one length, or scalars that hold for all of them.

        NaN is null but where None is (as in `loss`), and None as a name. Waits where rows come without `flush_if_due`
        and faster than they are written.

        Raises:
            OrthoLoraError: of these steps, or of later ones, there are rows already.
        """
        arrays = dict(zip(columns, np.broadcast_arrays(*columns.values()), strict=True))
        steps = arrays["step"]
        if steps.size:
            of = str(arrays["task"].tolist()) if table == "steps" else None
            self._admit(table, int(steps.min()), int(steps.max()), of)
        self._batch.rows.setdefault(table, []).append(arrays)
        if table == "metrics":
            self._remember(*(arrays[name].tolist() for name in ("split", "task", "metric", "value")))
        self._added(table, len(next(iter(arrays.values()))))

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """The last values that are finite, by split, task and metric."""
        return self._metrics

    def event(self, step: int, event: Event, task: str | None = None, reason: str = "") -> None:
        """Add a row to `events`: what went wrong in a step, with the task whose it was where there is one."""
        self.add("events", step=step, event=event, task=np.array([task], object), reason=reason)

    def _remember(self, splits: list[str], tasks: list[str], metrics: list[str], values: list[float]) -> None:
        """Have the status say the last values: who lists many runs opens none of their tables."""
        for split, task, metric, value in zip(splits, tasks, metrics, values, strict=True):
            of_task = self._metrics.setdefault(split, {}).setdefault(task, {})
            of_task[metric] = value
            if not np.isfinite(value):
                del of_task[metric]

    def add_gradients(self, gradients: Gradients) -> None:
        """Add what a step measured, its rows of `pairs` and `norms`; waits and refuses as `add`."""
        self._admit("norms", gradients.step, gradients.step, gradients.layout)
        self._batch.gradients.append(gradients)
        self._added("pairs", len(gradients.layout.pairs["layer"]))
        self._added("norms", len(gradients.layout.norms["layer"]))

    def add_snapshot(self, step: int, snapshot: Snapshot) -> None:
        """Add a snapshot, its rows of `snapshots`, taken after so many optimizer steps; waits and refuses as `add`."""
        self._admit("snapshots", step, step, "snapshot")
        self._batch.snapshots.append((step, snapshot))
        self._added("snapshots", snapshot.row_count)

    def _admit(self, table: str, first: int, last: int, of: Hashable) -> None:
        if self.begun and not self._closed:
            self._writer.check()
        self._places.admit(self.run_dir, table, first, last, of)
        if self._closed and self._lock is not None:  # resumed, and it goes on after what there is
            self._reopen(self._lock, dict.fromkeys(TABLES, 2**31 - 1))
            self._places.admit(self.run_dir, table, first, last, of)

    def _added(self, table: str, rows: int) -> None:
        self._counts[table] += rows
        self._fed()
        if self.begun:
            self._writer.check()
            self._status.beat()
            if self._counts[table] >= 2 * self.flush_rows:
                self._hand_over()

    def _fed(self) -> None:
        self.thread, self.last_error = threading.get_ident(), ending.last_error()
        self.noted: ending.Ending | None = None

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
        if not self.run_dir.is_dir():  # also where nothing was to be written
            raise gone(self.run_dir)

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
        try:
            self._status.write()
        except OSError as error:
            raise refusal(self.run_dir, error) from error
        return said
