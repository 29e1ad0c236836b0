"""Whether conflict showed in the metrics: runs of the same directory that differ in method and seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from analysis.runs import final_metrics, list_runs
from ortho_lora.schema import RunInfo, read_run

LOWER_IS_BETTER = frozenset({"loss", "rmse", "mae", "mse"})
SPLIT = "validation"

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
    The interval is Student's for the mean over paired seeds: None with fewer than three.
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
    values: dict[str, dict[int, tuple[str, dict[str, float]]]] = {}
    for other in list_runs(run.parent):
        if (
            other.info
            and not other.info.probe
            and other.state == "finished"
            and other.info.task_names == own.task_names  # before its modules are read
            and _identity(read_run(other.path)) == _identity(own)
        ):
            found = (other.run_id, final_metrics(other.path, other.info.tasks, SPLIT))
            values.setdefault(other.info.method, {}).setdefault(other.info.seed, found)  # the newest first
    joint = values.get("joint", {})
    methods = sorted(values.keys() - {"joint"}, key=lambda method: (method != "single", method))
    return tuple(
        outcome
        for method in methods
        for task in own.tasks
        if task.metrics and (outcome := _compare(task.name, task.metrics[0], method, values[method], joint))
    )


def _compare(
    task: str,
    metric: str,
    method: str,
    ours: dict[int, tuple[str, dict[str, float]]],
    joint: dict[int, tuple[str, dict[str, float]]],
) -> Outcome | None:
    seeds = [seed for seed in sorted(ours.keys() & joint.keys()) if task in ours[seed][1] and task in joint[seed][1]]
    if not seeds:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gains = [sign * (ours[seed][1][task] - joint[seed][1][task]) for seed in seeds]
    low, high = _interval(gains)
    runs = tuple(side[seed][0] for seed in seeds for side in (ours, joint))
    return Outcome(task, metric, method, "joint", float(np.mean(gains)), low, high, tuple(seeds), runs)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 3:
        return None, None
    half_width = special.stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half_width), float(np.mean(values) + half_width)


def _identity(info: RunInfo) -> dict[str, Any]:
    """What two runs must have in common to be compared."""
    return {
        "config": {name: value for name, value in info.config.items() if name not in _FREE},
        "tasks": [task.model_dump(exclude={"majority"}) for task in info.tasks],  # its value is of the seed's examples
        "modules": info.modules,
    }
