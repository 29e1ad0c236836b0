"""How a run ends that nobody closes: with its process, its thread, its notebook's cell, or the last reference to it.

A `Recorder` as a context sees for itself how its block ended. For one that is not, this module looks at what ended:
an exit (`sys.exit` is watched while a run is open, for Python tells its code to nobody), an exception that nobody
caught, Ctrl-C, SIGTERM and SIGHUP (where nobody else handles them), or the cell of a notebook. Importable without
torch. Not seen are SIGKILL, `os._exit`, and a bare `raise SystemExit(1)`.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any, NoReturn, Protocol
from weakref import WeakSet

from ortho_lora.record.schema import State

Ending = tuple[State, str]
"""State of a run, and a message."""

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Unclosed(Protocol):
    """A run that is being recorded."""

    thread: int  # that brought the last row
    last_error: int  # `last_error()` when it did
    noted: Ending | None  # how what brought its rows has ended; None: it goes on

    def end(self, ending: Ending) -> None:
        """Write what waits, and say how it ended. Raises nothing."""

    def flush_quietly(self) -> None:
        """Write what waits. Raises nothing."""

    def abandon(self) -> None:
        """Leave the run to the process that this one was forked from."""


_open: WeakSet[Any] = WeakSet()
_former_exit: Callable[..., NoReturn] = sys.exit
_former_threads: Callable[..., Any] = threading.excepthook
_cells_of: Any = None  # the shell whose cells are watched
_signalled = 0  # the signal that asked this process to end


def ending_of(error: BaseException | None) -> Ending:
    """Of what ended with this error, or without one."""
    if error is None:
        return "finished", ""
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "interrupted"
    if not isinstance(error, SystemExit):
        return "failed", str(error) or type(error).__name__
    if not error.code:
        return "finished", ""
    if not isinstance(error.code, int):
        return "failed", str(error.code)
    if isinstance(error.__context__, KeyboardInterrupt) or error.code == 128 + signal.SIGINT:
        return "stopped", "interrupted"
    if error.code - 128 in _SIGNALS:  # as shells and schedulers count
        return "stopped", f"ended by {signal.Signals(error.code - 128).name}"
    why = "" if error.__context__ is None else f" ({error.__context__ or type(error.__context__).__name__})"
    return "failed", f"exited with code {error.code}{why}"


def last_error() -> int:
    """Which exception this process has told last of those that nobody caught; 0: of none."""
    error = _last_error()
    return 0 if error is None else id(error)


def _last_error() -> BaseException | None:
    return getattr(sys, "last_value", None)


def known_ending(run: Unclosed, in_flight: BaseException | None = None) -> Ending:
    """How a run ended, as far as anything tells: finished where nothing speaks against it."""
    if in_flight is not None:
        return ending_of(in_flight)
    if run.noted is not None:
        return run.noted
    return ending_of(_last_error() if last_error() != run.last_error else None)


def watch(run: Unclosed) -> None:
    """Have a run closed however what trains it ends."""
    global _former_exit, _former_threads, _cells_of
    if not _open:
        if sys.exit is not _exit:
            _former_exit, sys.exit = sys.exit, _exit
        if threading.excepthook is not _thread_failed:
            _former_threads, threading.excepthook = threading.excepthook, _thread_failed
    _open.add(run)
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _terminate)
    if multiprocessing.parent_process() is not None:  # which ends without `atexit`
        Finalize(None, _close_all, exitpriority=10)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and shell is not _cells_of:
        shell.events.register("post_run_cell", _cell_ended)
        _cells_of = shell


def forget(run: Unclosed) -> None:
    """It is closed."""
    _open.discard(run)
    if _open:
        return
    if sys.exit is _exit:
        sys.exit = _former_exit
    if threading.excepthook is _thread_failed:
        threading.excepthook = _former_threads
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is _terminate:
                signal.signal(number, signal.SIG_DFL)


def _note(error: BaseException, thread: int | None = None) -> None:
    for run in list(_open):
        if thread is None or run.thread == thread:
            run.noted = ending_of(error)


def _exit(status: Any = None, /) -> NoReturn:
    error = SystemExit(status)
    error.__context__ = sys.exc_info()[1]
    _note(error, threading.get_ident())
    _former_exit(status)


def _thread_failed(args: Any, /) -> None:
    if args.exc_value is not None and args.thread is not None:
        _note(args.exc_value, args.thread.ident)
    _former_threads(args)


def _terminate(number: int, frame: FrameType | None) -> None:
    """End the process as `sys.exit` does, so that all is written; a second signal ends it at once."""
    global _signalled
    _signalled = number
    signal.signal(number, signal.SIG_DFL)
    error = SystemExit(128 + number)
    _note(error)
    raise error


def _cell_ended(result: Any) -> None:
    """Note how a cell ended for the runs that it brought rows to; a kernel may be killed before the next one."""
    for run in list(_open):
        if run.noted is None:
            run.noted = ending_of(result.error_before_exec or result.error_in_exec)
            run.flush_quietly()
    if _signalled:  # the shell has caught the exit
        _close_all()
        signal.raise_signal(_signalled)


@atexit.register
def _close_all() -> None:
    # In a process of `multiprocessing` the error that ends it is on its way.
    in_flight = sys.exc_info()[1]
    for run in list(_open):
        run.end(known_ending(run, in_flight))


def _forked() -> None:
    for run in list(_open):
        run.abandon()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
