"""Which held-out texts of one task a step for another harms and helps: real sentences behind a number."""

from pathlib import Path

import pandas as pd

from analysis.reading.database import Selection, ask_once
from analysis.transfer.predicted import counted_steps

COLUMNS = ("step", "source", "target", "example", "text", "label", "loss", "nats")


def texts_of(run: Path, source: str, target: str, at: int | None = None) -> pd.DataFrame:
    """Single held-out texts of the target, and what a step for the source alone does to the loss of each.

    Args:
        run: directory of the run.
        source, target: tasks.
        at: as of `predicted.transfer_matrix`.

    Returns:
        COLUMNS, a row a text, from the one that is harmed most to the one that is helped most. step: of the (last)
        snapshot; example: its place in the validation split; loss: where the snapshots were taken, nats; nats: that it
        moves by a step, to first order, through the source's gradient (its pull). Both are means over the snapshots
        that count together. No rows where none were recorded.
    """
    sql = (
        "SELECT max(step) AS step, source, target, example, text, label, avg(loss) AS loss, avg(nats) AS nats"
        " FROM texts WHERE source = $source AND target = $target AND list_contains($steps, step)"
        " GROUP BY source, target, example, text, label ORDER BY nats DESC"
    )
    named = {"source": source, "target": target, "steps": tuple(counted_steps(run, at))}
    found = ask_once(run, ("texts",), sql, Selection(), named, "by_layer")
    return found[list(COLUMNS)].astype(dict.fromkeys(("source", "target", "text", "label"), "str"))
