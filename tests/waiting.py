"""Waiting for a state, never for a time: how long anything takes tells how busy the machine is, and nothing else."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 600  # seconds; whoever takes longer than that, also beside many busy processes, never comes


def wait_for(
    condition: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None, output: Path | None = None
) -> Any:
    """The first true answer of a condition; a process that should bring it about and ends fails with its output."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        said = output.read_text() if output else ""
        assert process is None or process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
    return found
