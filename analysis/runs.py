"""Which runs there are, and in which state."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.parts import problems, sound_parts
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import (
    ACTIVE_STATES,
    RunInfo,
    Status,
    TaskInfo,
    check_run_id,
    read_run,
    read_status,
)


@dataclass(frozen=True)
class Run:
    """One run directory. A broken one has its `problem` in words."""

    path: Path
    run_id: str
    info: RunInfo | None
    status: Status | None
    problem: str | None

    @property
    def state(self) -> str:
        """The recorded state; `unreadable` where the run cannot be read.

        `lost`: its process is gone, or another one has its pid by now. `stalled`: its process lives, and its training
        has given no sign for longer than a step or an evaluation took it before, and for a minute at least.
        """
        if self.info is None or self.status is None:
            return "unreadable"
        if self.status.state in ACTIVE_STATES:
            if not _is_alive(self.status):
                return "lost"
            if time.time() - self.status.heartbeat > self.status.patience_seconds:
                return "stalled"
        return self.status.state

    @property
    def active(self) -> bool:
        """Whether its process lives and may go on, `stalled` or not."""
        return self.state in (*ACTIVE_STATES, "stalled")


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs, newest first. A directory that cannot be read as a run is listed with its problem."""
    try:
        paths = [path for path in runs_dir.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    return sorted(map(_read, paths), key=lambda run: (_created(run), run.run_id), reverse=True)


def open_run(runs_dir: Path, run_id: str) -> Run:
    """One run by its name; its `problem` names also the files in it that are left out, a line each.

    Raises:
        OrthoLoraError: the name is not allowed, or there is no such run.
    """
    path = runs_dir / check_run_id(run_id)
    if not path.is_dir():
        raise OrthoLoraError(f"run {run_id!r}: not in {runs_dir}; expected the name of a directory there.")
    run = _read(path)
    found = [run.problem] if run.problem else []
    return replace(run, problem="\n".join([*found, *problems(path)]) or None)


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, in the order given.

    Returns:
        run, state, method, tasks (names), done and total (steps), final (text: the last validation value of each
        task's primary metric), mean (of these), created (UTC), seed.
    """
    columns = ["run", "state", "method", "tasks", "done", "total", "final", "mean", "created", "seed"]
    frame = pd.DataFrame([_row(run) for run in runs], columns=columns)
    return frame.astype(
        {"done": "Int64", "total": "Int64", "seed": "Int64", "mean": "float64", "created": "datetime64[us, UTC]"}
    )


def final_metrics(run: Path, tasks: Sequence[TaskInfo], split: str = "validation") -> dict[str, float]:
    """The last recorded value of each task's primary metric on `split`; without the tasks not evaluated yet."""
    found: dict[str, float] = {}
    for part in reversed(sound_parts(run, "metrics")):
        if len(found) == len(tasks):
            break
        try:
            rows = pq.read_table(part, columns=["split", "task", "metric", "value"]).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise OrthoLoraError(f"{part}: cannot be read as a part of a record ({error}).") from error
        last = {(row["task"], row["metric"]): row["value"] for row in rows if row["split"] == split}
        here = {task.name: last.get((task.name, task.metrics[0])) for task in tasks}
        found = {name: value for name, value in here.items() if value is not None} | found
    return found


def _read(path: Path) -> Run:
    status = read_status(path)
    try:
        info = read_run(path)
    except (OrthoLoraError, OSError) as error:
        return Run(path, path.name, None, status, str(error))
    return Run(path, path.name, info, status, None if status else f"{path}: status.json is missing or unreadable.")


def _is_alive(status: Status) -> bool:
    """Whether the run's own process still runs: a later process may carry the same pid."""
    try:
        process = psutil.Process(status.pid)
        # A zombie has ended; only its parent, perhaps the app, has not asked for its exit code yet.
        same: bool = abs(process.create_time() - status.process_start_time) <= 2
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _created(run: Run) -> float:
    if run.info:
        return run.info.created
    try:
        return run.path.stat().st_mtime
    except OSError:  # deleted since it was listed
        return 0.0


def _row(run: Run) -> dict[str, object]:
    info, status = run.info, run.status
    progress = {"done": status.step if status else None, "total": status.total if status else None}
    if info is None:
        return {"run": run.run_id, "state": run.state, **progress}
    try:
        final = final_metrics(run.path, info.tasks)
    except OrthoLoraError:  # the table says what it can; opening the run tells the problem
        final = {}
    return {
        "run": run.run_id,
        "state": run.state,
        "method": info.method,
        "tasks": ", ".join(info.task_names),
        **progress,
        "final": _metrics_text(info.task_names, final),
        "mean": sum(final.values()) / len(final) if final else None,
        "created": datetime.fromtimestamp(info.created, UTC),
        "seed": info.seed,
    }


def _metrics_text(names: Sequence[str], values: Mapping[str, float]) -> str:
    """Like `trec .86 · tweets .70`."""
    short = {name: re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}") for name, value in values.items()}
    return " · ".join(f"{name} {short[name]}" for name in names if name in short)
