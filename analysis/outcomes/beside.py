"""Whether conflict showed in the metrics: runs of the same directory that differ in method and seed alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.library.runs import Run, list_runs, run_at
from analysis.outcomes.boards import SINGLE, Board
from analysis.outcomes.scores import read_scores
from analysis.statistics.seeds import estimate
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Identity, RunInfo, groups_text, read_run

INDIFFERENT = frozenset(
    {"seed", "gradient_mode", "device", "threads", "eval_batch_size"}
    | {"record_every", "flush_rows", "flush_seconds", "checkpoint_every", "on_nonfinite", "log"}
)
"""Settings that change nothing but chance, speed and the record, where losses are finite."""
_FREE = INDIFFERENT | {"method", "rule", "scope", "branches", "order", "groups"}  # and how, and which, gradients meet


@dataclass(frozen=True)
class Outcome:
    """How much better a task does in runs of one method than in those of another, seed by seed.

    Last validation values of the task's primary metric; `difference` is positive where `method` is the better one.
    The 95% interval respects the spread of the paired seeds and, where runs kept their predictions, that examples are
    finitely many (`analysis.statistics.seeds`): None with fewer than three seeds.
    """

    task: str
    metric: str
    method: str
    against: str
    difference: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    runs: tuple[str, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval excludes that the two are alike."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def outcomes(run: Path) -> tuple[Outcome, ...]:
    """`single` against `joint`, and every other method against `joint`, on each task, as far as there are such runs.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    runs = _comparable(run)
    board = _board(runs)
    found = []
    for method in board.others:
        for task in board.tasks:
            gain = board.gain(method, task.name)
            if gain.seeds:
                one = estimate(gain)
                names = tuple(runs[side][seed].run_id for seed in one.seeds for side in (method, board.baseline))
                metric = board.metrics[task.name]
                found.append(
                    Outcome(task.name, metric, method, board.baseline, one.value, one.low, one.high, one.seeds, names)
                )
    return tuple(found)


def board_of(run: Path) -> Board:
    """The scores of the runs that this one can be compared with, and its own, as of a study without a file.

    They are the finished runs of the same directory with the run's own model, tasks and other settings. A probe
    evaluates nothing: it is compared with none.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    return _board(_comparable(run))


def _comparable(run: Path) -> dict[str, dict[int, Run]]:
    """By method, `single` first, and seed."""
    own = read_run(run)
    if not own.config or own.probe:
        return {}
    runs: dict[str, dict[int, Run]] = {}
    for other in _beside(run):
        if (
            other.info
            and not other.info.probe
            and other.state == "finished"
            and other.info.task_names == own.task_names  # before its modules are read
            and _same(other.path, own)
        ):
            runs.setdefault(_method(other.info), {}).setdefault(other.info.seed, other)  # the newest first
    return {method: runs[method] for method in sorted(runs, key=lambda method: (method != SINGLE, method))}


def _beside(run: Path) -> list[Run]:
    """The runs of its directory; itself alone where that cannot be listed."""
    try:
        return list_runs(run.parent)
    except OrthoLoraError:
        return [run_at(run)]


def _same(other: Path, own: RunInfo) -> bool:
    """Whether the two can be compared; not with one that cannot be read, as the list of runs tells of it."""
    try:
        found = read_run(other)
    except OrthoLoraError:
        return False
    return found.modules == own.modules and settings_without(found, _FREE) == settings_without(own, _FREE)


def _board(runs: Mapping[str, Mapping[int, Run]]) -> Board:
    scores = read_scores(run for of_method in runs.values() for run in of_method.values())
    return Board.of((), "joint", runs, scores)


def _method(info: Identity) -> str:
    """Its name, which tells rule, scope and branches, the order where it is not the usual one, and the groups."""
    order = info.config.get("order", "random")
    named = info.method if order == "random" or info.rule == "sum" else f"{info.method}, {order} order"
    return f"{named}: {groups_text(info.groups)}" if info.groups else named


def settings_without(info: Identity, free: Collection[str]) -> dict[str, Any]:
    """Settings and tasks of a run, without the settings that are free."""
    return {
        "config": {name: value for name, value in info.config.items() if name not in free},
        # The majority's value is of the seed's examples; older records do not say what was dropped.
        "tasks": [task.model_dump(exclude={"majority", "dropped"}) for task in info.tasks],
    }
