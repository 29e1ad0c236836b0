"""What carries runs out: processes of this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import psutil

from ortho_lora.launching.processes import environment
from ortho_lora.record.origin import Origin, find
from ortho_lora.study.folder import Folder


class Handle(Protocol):
    """A run under way."""

    def ended(self) -> int | None:
        """None while it goes on; then its exit status, negative where a signal killed it."""

    def stop(self) -> None:
        """Ask it to end after its step, and to save."""

    def kill(self) -> None:
        """End it at once."""


class Executor(Protocol):
    """Starts runs."""

    def start(self, folder: Folder, run_id: str) -> Handle:
        """Have a run trained from where it is.

        Raises:
            OrthoLoraError: another process writes it.
        """

    def adopt(self, folder: Folder, run_id: str) -> Handle | None:
        """A run that an earlier command started, and that still goes on; None where it does not."""


class Child:
    """A process that was started here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ended(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        # All of its session.
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Found:
    """A process that an earlier command started: its exit status went with that command."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._origin = process, Origin.of(process)

    def ended(self) -> int | None:
        return 0 if find(self._origin) is None else None

    def stop(self) -> None:
        if self.ended() is None:
            self._process.terminate()

    def kill(self) -> None:
        if self.ended() is None:
            self._process.kill()


class Local:
    """Runs as processes of this machine, each the leader of a session: Ctrl-C reaches the study alone."""

    def start(self, folder: Folder, run_id: str) -> Handle:
        return Child(begin(folder, run_id))

    def adopt(self, folder: Folder, run_id: str) -> Handle | None:
        process = folder.process(run_id)
        return Found(process) if process else None


def begin(folder: Folder, run_id: str, directory: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a process that trains a run from where it is, in this working directory, and note it in the study.

    Raises:
        OrthoLoraError: another process writes the run.
    """
    arguments = folder.arguments(run_id)
    with folder.output(run_id).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ortho_lora", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
            cwd=directory,
        )
    folder.write_ticket(run_id, psutil.Process(process.pid))
    return process


def threads_of(workers: int) -> int:
    """CPU threads of each of so many runs at once on this machine: a core each, as far as there are."""
    return max((psutil.cpu_count(logical=False) or psutil.cpu_count() or 1) // workers, 1)
