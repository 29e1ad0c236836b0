"""A study as it stands: what its runs are for, which of them are done, and which settings were chosen."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from analysis.library.runs import Run, list_runs
from analysis.outcomes.boards import Board, Condition, name_of
from analysis.outcomes.scores import Scores
from ortho_lora.record.files import is_text
from ortho_lora.record.study import FILE_NAME, Cell, Settings, Study, read_study

Pair: TypeAlias = tuple[str, str]

WAITING = "waiting"
"""State of a planned run that nobody has begun."""


@dataclass(frozen=True)
class Results:
    """A study with those of its runs that are there, by name."""

    directory: Path
    study: Study
    runs: Mapping[str, Run]

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that runs are planned for, in the order of the plan; without axes there is one, empty."""
        return tuple(dict.fromkeys(_condition(use.cell) for use in self.study.uses))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs of the transfer matrix."""
        return tuple(dict.fromkeys(use.cell.pair for use in self.study.uses if use.cell.pair))

    def methods(self, condition: Condition) -> tuple[str, ...]:
        """Methods planned under a condition on all tasks, in the order of the study's file."""
        cells = [use.cell for use in self.study.uses if use.cell.pair is None]
        planned = {cell.method for cell in cells if _condition(cell) == condition}
        return tuple(method for method in self.study.methods if method in planned)

    def candidates(self, cell: Cell) -> tuple[Settings, ...]:
        """What was tried for a cell, in the order of the plan."""
        found: list[Settings] = []
        for use in self.study.uses:
            if use.cell.key == cell.key and use.candidate not in found:
                found.append(use.candidate)
        return tuple(found)

    def chosen(self, cell: Cell) -> Settings | None:
        """The settings that results of a cell are told of; None: not chosen yet."""
        for choice in self.study.choices:
            if choice.cell.key == cell.key:
                return choice.candidate
        tried = self.candidates(cell)
        return tried[0] if len(tried) == 1 else None

    def finished(self, method: str, condition: Condition, pair: Pair | None = None) -> dict[int, Run]:
        """Finished runs of a cell's chosen settings, by the seeds of the study."""
        cell = Cell(method=method, condition=dict(condition), pair=pair)
        if (settings := self.chosen(cell)) is None:
            return {}
        return {
            use.seed: run
            for use in self.study.uses
            if use.cell.key == cell.key and use.candidate == settings and use.seed in self.study.seeds
            if (run := self.runs.get(use.run_id)) and run.state == "finished" and run.info
        }

    def reported(self) -> Iterator[Run]:
        """Every finished run that results are told of, once."""
        cells = dict.fromkeys((use.cell.method, _condition(use.cell), use.cell.pair) for use in self.study.uses)
        seen = {run.run_id: run for cell in cells for run in self.finished(*cell).values()}
        yield from seen.values()

    @property
    def version(self) -> tuple[object, ...]:
        """Another one whenever findings may differ; not when a run makes a step."""
        try:
            written = (self.directory / FILE_NAME).stat().st_mtime_ns
        except OSError:
            written = 0
        return written, *((run.run_id, run.state) for run in self.runs.values())

    @property
    def active(self) -> bool:
        """Whether one of its runs trains."""
        return any(run.active for run in self.runs.values())


def read_results(directory: Path) -> Results:
    """Read a study; what has not been trained yet is left out.

    Raises:
        OrthoLoraError: the directory holds no study, or one that cannot be read.
    """
    study = read_study(directory)
    planned = {use.run_id for use in study.uses}
    runs = {run.run_id: run for run in list_runs(directory) if run.run_id in planned}
    return Results(directory, study, runs)


def boards(results: Results, scores: Scores) -> tuple[Board, ...]:
    """A board for each condition with finished runs."""
    found = []
    for condition in results.conditions:
        runs = {method: results.finished(method, condition) for method in results.methods(condition)}
        found.append(Board.of(condition, results.study.baseline, runs, scores))
    return tuple(board for board in found if board.scores)


def find_studies(runs_dir: Path) -> dict[str, Path]:
    """Studies by name: those in directories of a runs directory, and before them itself, as `.`, where it is one."""
    try:
        names = sorted(name for name in os.listdir(runs_dir) if is_text(name) and not os.path.islink(runs_dir / name))
    except OSError:
        return {}
    found = {".": runs_dir, **{name: runs_dir / name for name in names}}
    return {name: path for name, path in found.items() if os.path.isfile(path / FILE_NAME)}


def planned_runs(results: Results) -> pd.DataFrame:
    """Every planned run with its state, a row each; of one that is of use several times its first use.

    Returns:
        run, method, condition, tasks ("all", or the two of a pair), settings (what was tuned), seed, state, progress,
        message.
    """
    rows = []
    for use in results.study.uses:
        run = results.runs.get(use.run_id)
        status = run.status if run else None
        rows.append(
            {
                "run": use.run_id,
                "method": use.cell.method,
                "condition": name_of(_condition(use.cell)),
                "tasks": " with ".join(use.cell.pair) if use.cell.pair else "all",
                "settings": settings_text(use.candidate),
                "seed": use.seed,
                "state": run.state if run else WAITING,
                "progress": status.progress if status else "",
                "message": (run.problem if run else None) or (status.message if status else ""),
            }
        )
    columns = ["run", "method", "condition", "tasks", "settings", "seed", "state", "progress", "message"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates("run", ignore_index=True)


def settings_text(settings: Settings) -> str:
    """Like `learning_rate=0.001`; empty where nothing was tuned."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _condition(cell: Cell) -> Condition:
    return tuple(cell.condition.items())
