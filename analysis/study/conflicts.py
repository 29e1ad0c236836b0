"""How the tasks of a run conflict: each pair in one number, over all blocks and steps."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.conflict.agreement import agreement, model_steps
from analysis.conflict.snapshots import WHOLE, snapshot_matrix
from analysis.library.runs import Run
from analysis.outcomes.boards import name_of
from analysis.reading.cache import remembered
from analysis.reading.database import ask
from analysis.study.results import Results
from ortho_lora.record.schema import read_run

PAIR = ["task_i", "task_j"]
MEASURES = ("cosine", "corrected", "conflict_rate")
MEASURED = (*MEASURES, "projected")


def method_conflicts(results: Results) -> pd.DataFrame:
    """How each pair of tasks agreed under each method that trains them together.

    Returns:
        condition, method, task_i, task_j; cosine, corrected, conflict_rate, projected: as of `conflicts`, means over
        seeds, of `corrected` over those that have one; seeds: their number.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    rows = []
    for condition in results.conditions:
        for method in results.methods(condition):
            if not (runs := results.finished(method, condition)):
                continue
            means = conflicts_of(runs.values()).groupby(PAIR, sort=False)[list(MEASURED)].mean().reset_index()
            rows += [
                {"condition": name_of(condition), "method": method, **row, "seeds": len(runs)}
                for row in means.to_dict("records")
            ]
    frame = pd.DataFrame(rows, columns=["condition", "method", *PAIR, *MEASURED, "seeds"])
    return frame.astype(dict.fromkeys(MEASURED, "float64"))


def conflicts_of(runs: Iterable[Run]) -> pd.DataFrame:
    """`conflicts` of several runs, at least one, below each other."""
    return pd.concat([conflicts(run.path) for run in runs])


@remembered("manifest.json")
def conflicts(run: Path) -> pd.DataFrame:
    """How each pair of a run's tasks agrees; no rows where no gradients met.

    Returns:
        task_i, task_j; cosine: mean over blocks and steps, before projection; corrected: cosine of the whole gradients
        that a verdict would be on, of the last snapshot, else of all steps, null where only its interval is known;
        conflict_rate: share of negative cosines; projected: share of the directed measurements in which the rule
        projected.

    Raises:
        OrthoLoraError: the record cannot be read.
    """
    found = ask(
        run,
        ["pair_cells"],
        """
        SELECT task_i, task_j, sum(cosines) / nullif(sum(measured), 0) AS cosine,
            sum(conflicts) / nullif(sum(measured), 0) AS conflict_rate,
            sum(projected_ij + projected_ji) / 2 / nullif(sum(measured), 0) AS projected
        FROM pair_cells GROUP BY ALL ORDER BY task_i, task_j
        """,
        level="by_step",
    )
    whole = snapshot_matrix(run)
    whole = whole[whole["branch"] == WHOLE]
    if whole.empty:
        whole = agreement(model_steps(run), read_run(run), PAIR)
    found = found.merge(whole[[*PAIR, "cosine"]].rename(columns={"cosine": "corrected"}), how="left", on=PAIR)
    return found[[*PAIR, *MEASURED]].astype(dict.fromkeys(PAIR, str))
