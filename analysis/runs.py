"""Which runs there are, and in which state."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.notes import Notes, read_notes
from analysis.parts import damage, problems
from analysis.remembered import remembered
from ortho_lora.errors import OrthoLoraError
from ortho_lora.processes import find
from ortho_lora.schema import (
    ACTIVE_STATES,
    Identity,
    Status,
    TaskInfo,
    check_run_id,
    read_identity,
    read_manifest,
    read_status,
)
from ortho_lora.study.record import FILE_NAME as STUDY_FILE

_status = remembered("status.json")(read_status)
_identity = remembered("run.json")(read_identity)
_notes = remembered("notes.json")(read_notes)


@dataclass(frozen=True)
class Run:
    """One run directory. A broken one has its `problem` in words."""

    path: Path
    run_id: str
    info: Identity | None
    status: Status | None
    problem: str | None
    notes: Notes

    @cached_property  # of a run that is listed it is asked often, and each time costs a look at its process
    def state(self) -> str:
        """The recorded state; `unreadable` where the run cannot be read.

        `lost`: its process is gone, or another one has its pid by now. `stalled`: its process lives, and its training
        has given no sign for longer than a step or an evaluation took it before, and for a minute at least.
        """
        if self.info is None or self.status is None:
            return "unreadable"
        if self.status.state in ACTIVE_STATES:
            if find(self.status.pid, self.status.process_start_time) is None:
                return "lost"
            if time.time() - self.status.heartbeat > self.status.patience_seconds:
                return "stalled"
        return self.status.state

    @property
    def active(self) -> bool:
        """Whether its process lives and may go on, `stalled` or not."""
        return self.state in (*ACTIVE_STATES, "stalled")

    @property
    def seconds(self) -> float | None:
        """From its beginning to the last sign of its training; of one that was resumed, with the time between."""
        return self.status.heartbeat - self.info.created if self.info and self.status else None


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs, newest first. A directory that cannot be read as a run is listed with its problem.

    Files that have not changed since the last look are not read again.
    """
    try:
        with os.scandir(runs_dir) as entries:
            paths = [Path(entry.path) for entry in entries if entry.name[0] != "." and entry.is_dir()]
    except FileNotFoundError:
        return []
    paths = [path for path in paths if not (path / STUDY_FILE).exists()]  # it holds runs, and is none
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
        run, title, state, method (of a probe also where it measured), tasks (names), done and total (steps; of a probe
        batches), final (text: the last validation value of each task's primary metric), mean (of these, without those
        of twins: against labels that were flipped they mean nothing), created (UTC), seconds (to the last sign of its
        training), seed, tags (list), note, archived.
    """
    frame = pd.DataFrame(list(map(_row, runs)), columns=list(_COLUMNS))
    return frame.astype({name: kind for name, kind in _COLUMNS.items() if kind})


_COLUMNS = {
    "run": None, "title": None, "state": None, "method": None, "tasks": None, "done": "Int64", "total": "Int64",
    "final": None, "mean": "float64", "created": "datetime64[us, UTC]", "seconds": "float64", "seed": "Int64",
    "tags": None, "note": None, "archived": None,
}  # fmt: skip


def final_metrics(run: Path, tasks: Sequence[TaskInfo], split: str = "validation") -> dict[str, float]:
    """The last recorded value of each task's primary metric on `split`; without the tasks not evaluated yet.

    Raises:
        OrthoLoraError: the manifest cannot be read, or a part that looks whole.
    """
    wanted = tuple((task.name, task.metrics[0]) for task in tasks if task.metrics)
    return dict(_last_values(run, wanted, split))


@remembered("manifest.json")
def _last_values(run: Path, wanted: tuple[tuple[str, str], ...], split: str) -> dict[str, float]:
    found: dict[tuple[str, str], float] = {}
    for name in reversed([part.name for part in read_manifest(run).of("metrics")]):
        if all(key in found for key in wanted):
            break
        part = run / "metrics" / name
        try:
            with part.open("rb") as file:  # a small file is read faster at once
                metrics = pq.ParquetFile(pa.BufferReader(file.read()))
            rows = metrics.read(columns=["split", "task", "metric", "value"], use_threads=False).to_pylist()
            here = {(row["task"], row["metric"]): row["value"] for row in rows if row["split"] == split}
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            if damage(part, "metrics"):  # left out, as by every other question
                continue
            raise OrthoLoraError(f"{part}: cannot be read as a part of a record ({error}).") from error
        found = here | found
    return {task: found[task, metric] for task, metric in wanted if found.get((task, metric)) is not None}


def _read(path: Path) -> Run:
    status = _status(path)
    try:
        info = _identity(path)
    except (OrthoLoraError, OSError) as error:
        return Run(path, path.name, None, status, str(error), Notes())
    notes, problem = Notes(), None if status else f"{path}: status.json is missing or unreadable."
    try:
        notes = _notes(path)
    except OrthoLoraError as error:
        problem = problem or str(error)
    return Run(path, path.name, info, status, problem, notes)


def _created(run: Run) -> float:
    if run.info:
        return run.info.created
    try:
        return run.path.stat().st_mtime
    except OSError:  # deleted since it was listed
        return 0.0


def _row(run: Run) -> dict[str, object]:
    info, status, notes = run.info, run.status, run.notes
    row: dict[str, object] = {
        "run": run.run_id,
        "state": run.state,
        "done": status.step if status else None,
        "total": status.total if status else None,
        "title": notes.title,
        "tags": list(notes.tags),
        "note": notes.note,
        "archived": notes.archived,
    }
    if info is None:
        return row
    try:
        final = _said(run) or final_metrics(run.path, info.tasks)
    except OrthoLoraError:  # the table says what it can; opening the run tells the problem
        final = {}
    counted = [final[task.name] for task in info.tasks if task.name in final and task.twin_of is None]
    return row | {
        "method": f"{info.method}, probe {info.probe.where}" if info.probe else info.method,
        "tasks": ", ".join(info.task_names),
        "final": _metrics_text(info.task_names, final),
        "mean": sum(counted) / len(counted) if counted else None,
        "created": datetime.fromtimestamp(info.created, UTC),
        "seconds": run.seconds,
        "seed": info.seed,
    }


def _said(run: Run) -> dict[str, float]:
    """The final metrics as the status tells them, which spares a list of many runs their tables."""
    said = run.status.metrics.get("validation", {}) if run.status else {}
    tasks = [task for task in run.info.tasks if task.metrics] if run.info else []
    found = {task.name: said.get(task.name, {}).get(task.metrics[0]) for task in tasks}
    return {name: value for name, value in found.items() if value is not None}


def _metrics_text(names: Sequence[str], values: Mapping[str, float]) -> str:
    """Like `trec .86 · tweets .70`."""
    short = {name: re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}") for name, value in values.items()}
    return " · ".join(f"{name} {short[name]}" for name in names if name in short)
