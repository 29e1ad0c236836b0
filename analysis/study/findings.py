"""Everything that a study shows, asked once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.outcomes.scores import Scores, read_scores
from analysis.study import comparison, cost, fairness, transfer
from analysis.study.advised import advice_table
from analysis.study.axes import headlines, over_axes
from analysis.study.conflicts import method_conflicts
from analysis.study.results import Results, boards, planned_runs, read_results
from analysis.study.sentences import conclusions


@dataclass(frozen=True)
class Findings:
    """Frames that the modules of this package document, each of all conditions, and sentences on them."""

    name: str
    question: str
    phase: str
    active: bool
    baseline: str
    methods: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]  # of what makes the comparison less than fair
    advice: pd.DataFrame
    means: pd.DataFrame
    gains: pd.DataFrame
    relative: pd.DataFrame
    recovery: pd.DataFrame
    equal_seconds: pd.DataFrame
    costs: pd.DataFrame
    over_axes: pd.DataFrame
    conflicts: pd.DataFrame
    transfer: pd.DataFrame
    pair_conflicts: pd.DataFrame
    correlations: pd.DataFrame
    tried: pd.DataFrame
    runs: pd.DataFrame

    def headline(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Of each condition only the rows of the task, or the mean of them, that it is told by in one number."""
        return headlines(frame, self.over_axes)

    def document(self) -> dict[str, Any]:
        """Ready for JSON; a null says that nothing was measured."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def find(directory: Path) -> Findings:
    """Ask a study everything; of one that still trains, what there is.

    Raises:
        OrthoLoraError: the directory holds no study, or a record cannot be read.
    """
    results = read_results(directory)
    scores = read_scores(results.reported())
    found = boards(results, scores)
    matrix = transfer.transfer_matrix(results, scores)
    pairs = transfer.pair_conflicts(results, matrix)
    tried = fairness.tried(results)
    frames = {
        "advice": advice_table(results),
        "means": comparison.means(found),
        "gains": comparison.gains(found),
        "relative": comparison.relative(found),
        "recovery": comparison.recovery(found),
        "equal_seconds": cost.equal_seconds(results, found),
        "costs": cost.costs(results),
        "over_axes": over_axes(results, found),
        "conflicts": method_conflicts(results),
        "transfer": matrix,
        "pair_conflicts": pairs,
        "correlations": transfer.correlations(pairs),
        "tried": tried,
        "runs": planned_runs(results),
    }
    study = results.study
    return Findings(
        name=study.name,
        question=study.title,
        phase=study.phase,
        active=results.active,
        baseline=study.baseline,
        methods=study.methods,
        axes=study.axes,
        seeds=study.seeds,
        warnings=(*_without_scores(results, scores), *fairness.warnings(results, tried)),
        sentences=tuple(conclusions(results, found, frames)),
        **frames,
    )


def _without_scores(results: Results, scores: Scores) -> list[str]:
    """A warning on tasks of finished runs that have no score, where there are some."""
    lost = [
        f"{task.name} in {run.run_id}"
        for run in results.reported()
        for task in (run.info.tasks if run.info else ())
        if task.metrics and (run.run_id, task.name) not in scores
    ]
    return (
        [f"Left out, because their metric is no number: {', '.join(lost)}. Training may have diverged."] if lost else []
    )


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return [{name: _plain(cell) for name, cell in row.items()} for row in value.to_dict("records")]
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if value is None or pd.isna(value) else value
