"""Processes of this project: what they take, and what they need to start."""

import os
import re
import sys
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parents[2]


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
