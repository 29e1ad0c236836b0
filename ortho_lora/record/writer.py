"""What puts a run on disk while training goes on: one thread that writes its rows and its status."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import replace_text
from ortho_lora.record.origin import Origin
from ortho_lora.record.schema import PATIENCE, Status
from ortho_lora.record.store import Batch, Store

STATUS_SECONDS = 1.0
"""Seconds between two looks at whether `status.json` is out of date."""


class StatusFile:
    """`status.json`: said by the training thread, written by whichever thread has time for it."""

    def __init__(self, path: Path, status: Status) -> None:
        self.path, self.status = path, status
        self._lock = threading.Lock()
        self._sign = time.monotonic()
        self._written = self._sign  # not the time of day: a clock that is put back would stop the file

    def say(self, **fields: object) -> Status:
        """Change what is known. The heartbeat is a sign of the training thread: a live writer proves no progress."""
        with self._lock:
            now = time.monotonic()
            # A step or an evaluation that once took minutes is no sign of trouble the next time.
            patience = max(self.status.patience_seconds, 3 * (now - self._sign))
            self._sign = now
            signs = {"heartbeat": time.time(), "heartbeat_monotonic": now, "patience_seconds": patience}
            self.status = Status.model_validate(self.status.model_dump() | signs | fields)
            return self.status

    def beat(self) -> None:
        """Say nothing but that the training thread goes on."""
        with self._lock:
            self._sign = self.status.heartbeat_monotonic = time.monotonic()
            self.status.heartbeat = time.time()

    def write(self, *, only_if_changed: bool = False) -> None:
        """Replace the file."""
        with self._lock:  # of two writes the one with the newer status is last
            if only_if_changed and self._sign == self._written:
                return
            replace_text(self.path, self.status.model_dump_json(indent=1))
            self._written = self._sign


class Writer:
    """A thread that writes batches of rows in the order in which they come.

    One batch waits while another is written; who brings a third one waits as well, so that memory stays bounded and
    no row is lost. An error of the disk is raised where training next turns to the writer; what was published stays.
    """

    def __init__(self, store: Store, status: StatusFile) -> None:
        self.store, self.status = store, status
        self.run_dir = store.run_dir
        self._condition = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = self._ending = False
        self._error: OrthoLoraError | None = None
        self.thread = threading.Thread(target=self._work, name=f"writer of {self.run_dir.name}", daemon=True)
        self.thread.start()

    def put(self, batch: Batch) -> None:
        """Have rows written.

        Raises:
            OrthoLoraError: something could not be written.
        """
        self._put(lambda: self.store.write(batch))

    def finish(self) -> None:
        """Return when all is on disk and put in order: nothing will follow.

        Raises:
            OrthoLoraError: something could not be written.
        """
        self._put(lambda: self.store.finish())
        self.wait()

    def replace(self, make: Callable[[], Store]) -> None:
        """Go on with another store, when all that waits is on disk; `make` is called in the writer's thread.

        Raises:
            OrthoLoraError: something could not be written.
        """

        def work() -> None:
            self.store = make()

        self._put(work)
        self.wait()

    def fail(self, error: OrthoLoraError) -> None:
        """Have it raised wherever training turns to the writer, as in a process that has no such thread."""
        self._error = error

    def _put(self, work: Callable[[], None]) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._error or not self._waiting)
            self.check()
            self._waiting.append(work)
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
        self.thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._ending, timeout=STATUS_SECONDS)
                if self._ending and not self._waiting:
                    return
                work = self._waiting.popleft() if self._waiting else None
                self._busy = work is not None
                self._condition.notify_all()
            error = self._attempt(work)
            with self._condition:
                self._error, self._busy = error, False
                self._condition.notify_all()
            if error:
                return

    def _attempt(self, work: Callable[[], None] | None) -> OrthoLoraError | None:
        try:
            if work:
                work()
            self.status.write(only_if_changed=True)
        except OrthoLoraError as error:
            return error
        except OSError as error:
            return refusal(self.run_dir, error)
        except Exception as error:  # of another kind, as a column of the wrong type: whoever trains must hear of it
            failed = OrthoLoraError(f"{self.run_dir}: rows cannot be recorded ({error}).")
            failed.__cause__ = error
            return failed
        return None


def refusal(run_dir: Path, error: OSError) -> OrthoLoraError:
    """What to say where the disk refuses what is to be written of a run."""
    if isinstance(error, FileNotFoundError) or not run_dir.is_dir():
        return gone(run_dir)
    return OrthoLoraError(
        f"{error.filename or run_dir}: the record cannot be written ({error.strerror or error}): free space, or make"
        " the directory writable. What was recorded before is kept."
    )


def gone(run_dir: Path) -> OrthoLoraError:
    """What to say of a run whose directory is not there any more."""
    return OrthoLoraError(
        f"{run_dir}: the run's directory is gone: it was deleted, moved or unmounted while the run was recorded, and"
        " its record with it."
    )


def new_status(total: int) -> Status:
    """Of a run that begins, in this process."""
    return Status(
        state="running",
        total=total,
        heartbeat=time.time(),
        heartbeat_monotonic=time.monotonic(),
        patience_seconds=PATIENCE,
        **dict(Origin.of(psutil.Process())),
    )
