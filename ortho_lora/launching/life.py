"""The life of a run around its steps: its name, its log, and how it is asked to stop."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

_log = logging.getLogger("ortho_lora")  # of all modules


def new_run_id(runs_dir: Path, method: str) -> str:
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{method.replace('@', '-')}"
    taken = (stem if n == 1 else f"{stem}-{n}" for n in range(1, 1000))
    return next(name for name in taken if not (runs_dir / name).exists())


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()


_interrupted = False


def interrupted() -> bool:
    """Whether Ctrl-C was pressed in what last ran under `stop_on_signal`, and ended it in order."""
    return _interrupted


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that a step ends before the run does; a second Ctrl-C interrupts."""
    global _interrupted
    _interrupted = False
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        global _interrupted
        _interrupted |= number == signal.SIGINT
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        os.write(2, b"\nstopping after this step ...\n")

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
