"""Which processes live, and what they take. Importable without torch."""

import os
import re
import sys
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parents[1]
_TOLERANCE = 2.0  # seconds between two readings of the time when one process started


def find(pid: int, process_start_time: float) -> psutil.Process | None:
    """The living process with this pid and start time (seconds since the epoch): a later one may carry the same pid."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - process_start_time) <= _TOLERANCE
        # A zombie has ended; only its parent, perhaps the dashboard, has not asked for its exit code yet.
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def peak_memory() -> int:
    """Most bytes that this process has held in memory at once."""
    if sys.platform == "linux":  # its getrusage also counts what held the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        (kibibytes,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        return int(kibibytes) * 1024
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def environment() -> dict[str, str]:
    """For a process that imports this project, installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))}
