"""Which candidate of a method did best, judged on the `selection` split alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ortho_lora.record.schema import read_identity, read_status
from ortho_lora.record.study import SELECTION_SPLIT, Choice, Settings, Use
from ortho_lora.study.file import StudyFile
from ortho_lora.study.plan import cells

OF_THE_TARGET = frozenset({"rmse"})
"""Metrics in the unit of what is predicted, where less is better; all others are shares, or go up to 1."""


@dataclass(frozen=True)
class Outcome:
    """The primary metric of each task but the twins, at the end of a run."""

    metrics: Mapping[str, str]
    values: Mapping[str, float]


def read_outcome(run_dir: Path) -> Outcome | None:
    """How a run ended on the selection split; None where it has not finished, or a value is missing."""
    status = read_status(run_dir)
    if status is None or status.state != "finished":
        return None
    metrics = {task.name: task.metrics[0] for task in read_identity(run_dir).tasks if task.twin_of is None}
    found = status.metrics.get(SELECTION_SPLIT, {})
    values = {task: found[task][metric] for task, metric in metrics.items() if metric in found.get(task, {})}
    return Outcome(metrics, values) if len(values) == len(metrics) else None


def common(outcomes: Sequence[Sequence[Outcome | None]]) -> tuple[int, ...]:
    """Which seeds candidates are compared on, by place: those that all of them finished.

    One that finished fewer would be judged by the seeds that it survived. Candidates of which no run finished do not
    count; where the others have no seed in common, those that finished the fewest drop out, of equals the later.

    Args:
        outcomes: of each candidate, by seed.
    """
    finished = [{place for place, outcome in enumerate(of_one) if outcome} for of_one in outcomes]
    left = [places for places in finished if places]
    while left:
        if shared := set.intersection(*left):
            return tuple(sorted(shared))
        fewest = min(map(len, left))
        left.pop(max(place for place, places in enumerate(left) if len(places) == fewest))
    return ()


def scores(outcomes: Sequence[Sequence[Outcome | None]]) -> list[float | None]:
    """How good candidates are on the seeds of `common`: more is better.

    The mean over tasks, where a task's metric has the unit of its target and there are others, of the relative
    improvement over the first candidate that is compared; and over seeds.

    Args:
        outcomes: of each candidate, by seed.

    Returns:
        By candidate; None where it did not finish them.
    """
    seeds = common(outcomes)
    chosen = [[of_one[place] for place in seeds] for of_one in outcomes]
    known = [[outcome for outcome in of_one if outcome] for of_one in chosen]
    known = [of_one if seeds and len(of_one) == len(seeds) else [] for of_one in known]
    first = next((of_one for of_one in known if of_one), None)
    if first is None:
        return [None] * len(outcomes)
    metrics = first[0].metrics
    signs = {task: -1 if metric in OF_THE_TARGET else 1 for task, metric in metrics.items()}
    reference = _means(first)
    relative = len(metrics) > 1 and -1 in signs.values()

    def score(of_one: Sequence[Outcome]) -> float | None:
        if not of_one:
            return None
        gains = [
            signs[task] * ((value - reference[task]) / abs(reference[task]) if relative and reference[task] else value)
            for task, value in _means(of_one).items()
        ]
        return float(np.mean(gains))

    return [score(of_one) for of_one in known]


def choose(file: StudyFile, uses: Sequence[Use], outcomes: Mapping[str, Outcome | None]) -> list[Choice]:
    """The best candidate of every cell that has several, on the seeds that all finished; of equals the earlier.

    Args:
        file: the study's.
        uses: what runs are for.
        outcomes: by run.

    Returns:
        One for each such cell of which any run finished.
    """
    runs = {(use.cell.key, repr(use.candidate), use.seed): use.run_id for use in uses}
    choices = []
    for cell in cells(file):
        candidates = file.candidates(cell.method)
        if len(candidates) == 1:
            continue

        def outcome(candidate: Settings, seed: int) -> Outcome | None:
            return outcomes.get(runs[cell.key, repr(candidate), seed])  # noqa: B023  # called in this turn only

        of_cell = [[outcome(candidate, seed) for seed in file.tuning_seeds] for candidate in candidates]
        found = scores(of_cell)
        finished = [(value, -place) for place, value in enumerate(found) if value is not None]
        if finished:
            best = -max(finished)[1]
            seeds = tuple(file.tuning_seeds[place] for place in common(of_cell))
            choices.append(Choice(cell=cell, candidate=candidates[best], scores=tuple(found), seeds=seeds))
    return choices


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of each task, over seeds."""
    return {task: float(np.mean([outcome.values[task] for outcome in outcomes])) for task in outcomes[0].values}
