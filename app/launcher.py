"""Starts training as a process of its own, and stops it.

What is running is read from disk and from the system, so that it is known after a reload and a restart.

    <runs_dir>/.launch/<run_id>.yaml   the configuration
    <runs_dir>/.launch/<run_id>.log    what the process printed
    <runs_dir>/.launch/<run_id>.json   its pid and start time
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from ortho_lora.config import Config
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import check_run_id, replace_text

ROOT = Path(__file__).resolve().parents[1]

_children: list[subprocess.Popen[bytes]] = []  # kept so that each is reaped when it has ended; never asked anything


@dataclass(frozen=True)
class Launch:
    """A process that was started and has made no run directory yet."""

    run_id: str
    alive: bool
    output: str  # the last lines that it printed


def start(config: Config, runs_dir: Path, run_id: str) -> int:
    """Start training, and return the process id.

    Raises:
        OrthoLoraError: the name is not allowed or taken, or the runs directory cannot be written.
    """
    if (runs_dir / check_run_id(run_id)).exists():
        raise OrthoLoraError(f"run {run_id!r} exists in {runs_dir}: choose another name.")
    folder = runs_dir / ".launch"
    if _is_alive(folder / f"{run_id}.json"):
        raise OrthoLoraError(f"run {run_id!r} is just starting: choose another name.")
    settings = folder / f"{run_id}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False))
        output = (folder / f"{run_id}.log").open("wb")
    except OSError as error:
        raise OrthoLoraError(
            f"{folder}: cannot be written ({error.strerror}): choose another runs directory."
        ) from error
    command = [sys.executable, "-m", "ortho_lora", "train", "--config", str(settings.resolve())]
    with output:
        process = subprocess.Popen(
            [*command, "--runs-dir", str(runs_dir.resolve()), "--name", run_id],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives the dashboard, and Ctrl-C there does not reach it
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_inherited_path()])},
        )
    _children[:] = [child for child in _children if child.poll() is None] + [process]
    identity = {"pid": process.pid, "process_start_time": psutil.Process(process.pid).create_time()}
    replace_text(folder / f"{run_id}.json", json.dumps(identity))
    return process.pid


def stop(pid: int, process_start_time: float) -> bool:
    """Ask a process to end after its step; False where it is gone, or another one has its pid by now."""
    process = find(pid, process_start_time)
    if process is None:
        return False
    process.send_signal(signal.SIGTERM)
    return True


def find(pid: int, process_start_time: float) -> psutil.Process | None:
    """The living process with this pid and start time (seconds since the epoch)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - process_start_time) > 2:
            return None
    except psutil.Error:
        return None
    return process


def waiting(runs_dir: Path) -> list[Launch]:
    """What was started and has made no run directory: it is loading, or it did not get that far."""
    return [
        Launch(path.stem, _is_alive(path), tail(path.with_suffix(".log"), 12))
        for path in sorted((runs_dir / ".launch").glob("*.json"))
        if not (runs_dir / path.stem).exists()
    ]


def stop_waiting(runs_dir: Path, run_id: str) -> None:
    """End a start that has made no run directory, and forget it."""
    path = runs_dir / ".launch" / f"{check_run_id(run_id)}.json"
    identity = _identity(path)
    if identity:
        stop(*identity)
    path.unlink(missing_ok=True)


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 200 * lines, 0))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _is_alive(path: Path) -> bool:
    identity = _identity(path)
    return identity is not None and find(*identity) is not None


def _identity(path: Path) -> tuple[int, float] | None:
    try:
        saved = json.loads(path.read_text())
        return int(saved["pid"]), float(saved["process_start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _inherited_path() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH", "")] if path]
