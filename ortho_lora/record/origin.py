"""The process that a record or ticket is of, and whether it lives.

A record outlives its process, is read on other hosts where the disk is shared, and clocks are stepped. So it names the
process by what no clock changes (`Origin`), and whoever reads it says only what can be known from there.
"""

import hashlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import Literal, Self

import psutil
from pydantic import BaseModel, ConfigDict

_TOLERANCE = 2.0  # seconds between two readings of the time when one process started

Life = Literal["alive", "gone", "unknown"]


class Host(BaseModel):
    """A machine, since it was started, as far as a process sees of it."""

    model_config = ConfigDict(frozen=True)

    name: str
    machine: str | None = None  # the same after a restart; with `boot` and `pids` None where the system does not tell
    boot: str | None = None  # another one after each restart
    pids: str | None = None  # the namespace that process ids are of: containers have one of their own

    @classmethod
    @cache
    def this(cls) -> Self:
        machine = _text("/etc/machine-id")
        return cls(
            name=socket.gethostname(),
            machine=hashlib.sha256(f"ortho-lora {machine}".encode()).hexdigest()[:16] if machine else None,
            boot=_text("/proc/sys/kernel/random/boot_id"),
            pids=_namespace(),
        )


class Origin(BaseModel):
    """The process that a file is of."""

    pid: int
    process_start_time: float  # seconds since the epoch, by the clock as it stood when this was written
    host: Host | None = None  # None: written by an older version, so it is taken for this one
    ticks: int | None = None  # from the host's start to that of the process; None where the system does not tell

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        """Of a living process of this host."""
        return cls(
            pid=process.pid,
            process_start_time=process.create_time(),
            host=Host.this(),
            ticks=_ticks(process.pid),
        )

    def same_process(self, other: "Origin") -> bool:
        """Whether both are of one process, whatever was done to clocks in between."""
        if self.pid != other.pid:
            return False
        if self.host and other.host and self.ticks is not None and other.ticks is not None:
            return (self.host, self.ticks) == (other.host, other.ticks)
        return abs(self.process_start_time - other.process_start_time) <= _TOLERANCE

    @property
    def visible(self) -> bool:
        """Whether the processes of its host can be seen from here."""
        here, there = Host.this(), self.host
        if there is None:
            return True
        if there.boot and here.boot:
            return (there.boot, there.pids) == (here.boot, here.pids)
        return there.name == here.name

    @property
    def same_kernel(self) -> bool:
        """Whether it is, or was, a process of this machine since its start, so that locks tell of it."""
        return self.visible or bool(self.host and self.host.boot and self.host.boot == Host.this().boot)

    @property
    def process_life(self) -> Life:
        """Whether it lives; a zombie has ended. `unknown`: on another host, or in another container."""
        if self.visible:
            return "alive" if find(self) else "gone"
        here, there = Host.this(), self.host
        restarted = there and there.boot and there.machine and there.machine == here.machine and there.boot != here.boot
        return "gone" if restarted else "unknown"


def find(origin: Origin) -> psutil.Process | None:
    """The living process of an origin on this host; None where it has ended, or cannot be seen from here."""
    if not origin.visible:
        return None
    try:
        process = psutil.Process(origin.pid)
        ticks = _ticks(origin.pid)
        if origin.ticks is None or ticks is None:
            same = abs(process.create_time() - origin.process_start_time) <= _TOLERANCE
        else:
            same = ticks == origin.ticks
        # A zombie has ended; only its parent, perhaps the dashboard, has not asked for its exit code yet.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError, OverflowError):  # no number of a process
        return None


def locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock (flock) of a file; True where that cannot be known."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file gives it back
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the start of the host: psutil's time moves with the clock."""
    try:
        found = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(found.rpartition(b")")[2].split()[19])  # field 22; the name, which may hold anything, is the second


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None
