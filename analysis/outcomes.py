"""Whether conflict showed in the metrics: runs of the same directory that differ in method and seed alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from analysis.estimates import estimate
from analysis.runs import Run, list_runs
from analysis.scores import LOWER_IS_BETTER, Score, Scores, paired, read_scores
from ortho_lora.schema import RunInfo, read_run

INDIFFERENT = frozenset(
    {"seed", "gradient_mode", "device", "threads", "eval_batch_size"}
    | {"record_every", "flush_rows", "flush_seconds", "checkpoint_every"}
)
"""Settings that change nothing but chance, speed and the record."""
_FREE = INDIFFERENT | {"method", "rule", "scope", "branches", "order"}  # and how gradients are combined


@dataclass(frozen=True)
class Outcome:
    """How much better a task does in runs of one method than in those of another, seed by seed.

    Last validation values of the task's primary metric; `difference` is positive where `method` is the better one.
    The 95% interval respects the spread of the paired seeds and, where runs kept their predictions, that examples are
    finitely many (`analysis.estimates`): None with fewer than three seeds.
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

    Compared are finished runs of the same directory with the run's own model, tasks and other settings, and the same
    seed on both sides. A probe evaluates nothing: it has no outcomes and is none.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    own = read_run(run)
    if not own.config or own.probe:
        return ()
    runs: dict[str, dict[int, Run]] = {}
    for other in list_runs(run.parent):
        if (
            other.info
            and not other.info.probe
            and other.state == "finished"
            and other.info.task_names == own.task_names  # before its modules are read
            and _identity(read_run(other.path)) == _identity(own)
        ):
            runs.setdefault(other.info.method, {}).setdefault(other.info.seed, other)  # the newest first
    joint = runs.get("joint", {})
    methods = sorted(runs.keys() - {"joint"}, key=lambda method: (method != "single", method))
    scores = read_scores(run for of_method in runs.values() for run in of_method.values())
    return tuple(
        outcome
        for method in methods
        for task in own.tasks
        if task.metrics and (outcome := _compare(task.name, task.metrics[0], method, runs[method], joint, scores))
    )


def _compare(
    task: str, metric: str, method: str, ours: Mapping[int, Run], joint: Mapping[int, Run], scores: Scores
) -> Outcome | None:
    own, base = (_of_task(task, runs, scores) for runs in (ours, joint))
    seeds = sorted(own.keys() & base.keys())
    if not seeds:
        return None
    gain = paired(own, seeds).minus(paired(base, seeds)).times(-1 if metric in LOWER_IS_BETTER else 1)
    found = estimate(gain)
    runs = tuple(side[seed].run_id for seed in seeds for side in (ours, joint))
    return Outcome(task, metric, method, "joint", found.value, found.low, found.high, tuple(seeds), runs)


def _of_task(task: str, runs: Mapping[int, Run], scores: Scores) -> dict[int, Score]:
    found = {seed: scores.get((run.run_id, task)) for seed, run in runs.items()}
    return {seed: score for seed, score in found.items() if score and isfinite(score.value)}


def _identity(info: RunInfo) -> dict[str, Any]:
    """What two runs must have in common to be compared."""
    return {
        "config": {name: value for name, value in info.config.items() if name not in _FREE},
        "tasks": [task.model_dump(exclude={"majority"}) for task in info.tasks],  # its value is of the seed's examples
        "modules": info.modules,
    }
