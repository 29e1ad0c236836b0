"""Which candidate of a method did best, judged on the `selection` split alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ortho_lora.schema import read_identity, read_status
from ortho_lora.study.file import StudyFile
from ortho_lora.study.plan import cells
from ortho_lora.study.record import SELECTION_SPLIT, Choice, Settings, Use

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


def scores(outcomes: Sequence[Sequence[Outcome | None]]) -> list[float | None]:
    """How good candidates are: more is better.

    The mean over tasks, where a task's metric has the unit of its target and there are others, of the relative
    improvement over the first candidate that has any; and over seeds.

    Args:
        outcomes: of each candidate, by seed.

    Returns:
        By candidate; None where no run of it finished.
    """
    known = [[outcome for outcome in of_one if outcome] for of_one in outcomes]
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
    """The best candidate of every cell that has several; of equally good ones the earlier.

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

        found = scores([[outcome(candidate, seed) for seed in file.tuning_seeds] for candidate in candidates])
        finished = [(value, -place) for place, value in enumerate(found) if value is not None]
        if finished:
            best = -max(finished)[1]
            choices.append(Choice(cell=cell, candidate=candidates[best], scores=tuple(found)))
    return choices


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of each task, over seeds."""
    return {task: float(np.mean([outcome.values[task] for outcome in outcomes])) for task in outcomes[0].values}
