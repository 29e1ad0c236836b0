"""Which runs there are, and in which state."""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.library.notes import Notes, read_notes
from analysis.reading.cache import remembered
from analysis.reading.damage import counted, damage, problems
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import is_text, read_bytes, why
from ortho_lora.record.schema import (
    ACTIVE_STATES,
    Identity,
    Status,
    TaskInfo,
    check_place,
    read_identity,
    read_run,
    read_status,
)
from ortho_lora.record.study import FILE_NAME as STUDY_FILE

SPLIT = "validation"
"""That final metrics are of."""

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
        has given no sign for longer than a step or an evaluation took it before, and for a minute at least. Of a run
        on another host, whose processes and clock are not ours, the state is the recorded one (`elsewhere`).
        """
        if self.info is None or self.status is None:
            return "unreadable"
        if self.status.state in ACTIVE_STATES:
            if self.status.life(self.path) == "gone":
                return "lost"
            if self.status.silent:
                return "stalled"
        return self.status.state

    @property
    def elsewhere(self) -> str | None:
        """Where a run is said to go on that cannot be seen from here, and since when its status says so."""
        if not self.active or self.status is None or self.status.visible or self.status.host is None:
            return None
        try:
            written = datetime.fromtimestamp((self.path / "status.json").stat().st_mtime, UTC)
        except OSError:
            return f"on host {self.status.host.name}"
        return f"on host {self.status.host.name}, which wrote last at {written:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def active(self) -> bool:
        """Whether its process lives and may go on, `stalled` or not."""
        return self.state in (*ACTIVE_STATES, "stalled")

    @property
    def seconds(self) -> float | None:
        """From its beginning to the last sign of its training; of one that was resumed, with the time between."""
        return self.status.heartbeat - self.info.created if self.info and self.status else None


@dataclass(frozen=True)
class Survey:
    """What lies in a runs directory."""

    runs: tuple[Run, ...]  # newest first
    left_out: tuple[str, ...]  # what is no directory that can be opened by its name: its name, and why, in words


def list_runs(runs_dir: Path) -> list[Run]:
    """The runs of `survey`."""
    return list(survey(runs_dir).runs)


def survey(runs_dir: Path) -> Survey:
    """All runs, newest first. A directory that cannot be read as a run is listed with its problem.

    Files that have not changed since the last look are not read again.

    Raises:
        OrthoLoraError: the runs directory cannot be listed.
    """
    try:
        names = sorted(name for name in os.listdir(runs_dir) if name[0] != ".")
    except FileNotFoundError:
        return Survey((), ())
    except OSError as error:
        raise OrthoLoraError(
            f"{runs_dir}: cannot be listed ({why(error)}): choose a directory of runs that you may read."
        ) from error
    runs, left_out = [], []
    for name in names:
        path = runs_dir / name
        if reason := _no_directory(path):
            left_out.append(f"{name.encode(errors='replace').decode()} ({reason})")
        elif not os.path.lexists(path / STUDY_FILE):  # it holds runs, and is none
            runs.append(_read(path))
    runs.sort(key=lambda run: (_created(run), run.run_id), reverse=True)
    return Survey(tuple(runs), tuple(left_out))


def _no_directory(path: Path) -> str | None:
    """Why something among the runs is not opened; None: it may be a run."""
    try:
        kind = path.stat().st_mode
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else why(error)
    if not stat.S_ISDIR(kind):
        return "a file" if stat.S_ISREG(kind) else "not a directory"
    return None if is_text(path.name) else "its name is not text"


def open_run(runs_dir: Path, run_id: str) -> Run:
    """One run by the name of its directory; its `problem` names also the files that are left out, a line each.

    Raises:
        OrthoLoraError: the name is that of no directory there.
    """
    path = runs_dir / check_place(run_id)
    try:
        is_directory = path.is_dir()
    except OSError as error:
        raise OrthoLoraError(f"run {run_id!r}: cannot be opened in {runs_dir} ({why(error)}).") from error
    if not is_directory:
        raise OrthoLoraError(f"run {run_id!r}: not in {runs_dir}; expected the name of a directory there.")
    run = _read(path)
    found = [run.problem] if run.problem else []
    if run.info:
        try:
            read_run(path)
        except OrthoLoraError as error:  # its modules, which a list does without
            found.append(str(error))
    return replace(run, problem="\n".join([*found, *problems(path)]) or None)


def run_at(path: Path) -> Run:
    """The run in this directory, as of `open_run`."""
    where = Path(os.path.abspath(path))  # not resolved: a link is read by its own name
    return open_run(where.parent, where.name)


def identified(path: Path) -> tuple[Run, Identity]:
    """The same, and what it is.

    Raises:
        OrthoLoraError: not a run, or it cannot be read.
    """
    run = run_at(path)
    return run, info_of(run)


def info_of(run: Run) -> Identity:
    """The identity of a run; OrthoLoraError where it cannot be read."""
    if run.info is None:
        raise OrthoLoraError(run.problem)
    return run.info


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


def final_metrics(run: Path, tasks: Sequence[TaskInfo]) -> dict[str, float]:
    """The last recorded validation value of each task's primary metric; without the tasks not evaluated yet.

    Raises:
        OrthoLoraError: the manifest cannot be read, or a part that looks whole.
    """
    wanted = tuple((task.name, task.metrics[0]) for task in tasks if task.metrics)
    return dict(_last_values(run, wanted))


@remembered("manifest.json")
def _last_values(run: Path, wanted: tuple[tuple[str, str], ...]) -> dict[str, float]:
    found: dict[tuple[str, str], float] = {}
    for part in reversed(counted(run).of("metrics")):
        if all(key in found for key in wanted):
            break
        path = run / "metrics" / part.name
        if damage(path.parent, part):
            continue  # left out, as by every other question
        try:
            metrics = pq.ParquetFile(pa.BufferReader(read_bytes(path)))  # a small file is read faster at once
            rows = metrics.read(columns=["split", "task", "metric", "value"], use_threads=False).to_pylist()
        except (OSError, pa.ArrowException) as error:
            if damage(path.parent, part, deep=True):
                continue
            raise OrthoLoraError(f"{path}: cannot be read as a part of a record ({error}).") from error
        here = {(row["task"], row["metric"]): row["value"] for row in rows if row["split"] == SPLIT}
        found = here | found
    return {task: found[task, metric] for task, metric in wanted if found.get((task, metric)) is not None}


def _read(path: Path) -> Run:
    status = _status(path)
    try:
        info = _identity(path)
    except OrthoLoraError as error:
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
        "method": f"{info.method}, {info.probe.what}" if info.probe else info.method,
        "tasks": ", ".join(info.task_names),
        "final": _metrics_text(info.task_names, final),
        "mean": sum(counted) / len(counted) if counted else None,
        "created": datetime.fromtimestamp(info.created, UTC),
        "seconds": run.seconds,
        "seed": info.seed,
    }


def _said(run: Run) -> dict[str, float]:
    """The final metrics as the status tells them, which spares a list of many runs their tables."""
    said = run.status.metrics.get(SPLIT, {}) if run.status else {}
    tasks = [task for task in run.info.tasks if task.metrics] if run.info else []
    found = {task.name: said.get(task.name, {}).get(task.metrics[0]) for task in tasks}
    return {name: value for name, value in found.items() if value is not None}


def _metrics_text(names: Sequence[str], values: Mapping[str, float]) -> str:
    """Like `trec .86 · tweets .70`."""
    short = {name: re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}") for name, value in values.items()}
    return " · ".join(f"{name} {short[name]}" for name in names if name in short)
