"""What a lookahead found: what tasks did to each other's held-out loss in some real optimizer steps."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reading.database import Selection, ask_once
from ortho_lora.record.draws import PARTS, told_of
from ortho_lora.record.judge import LEVEL
from ortho_lora.record.schema import read_run
from ortho_lora.record.transfer import verdicts

_TYPES = dict.fromkeys(("step", "steps", "draws"), "int64") | dict.fromkeys(("source", "target", "part"), "str")
COLUMNS = {
    name: _TYPES.get(name, "float64")
    for name in ("step", "steps", "source", "target", "part", "nats", "low", "high", "draws", "reliability", "ceiling")
} | {"q": "float64", "sure": "bool"}
"""With their types."""


def realized(run: Path) -> pd.DataFrame:
    """What each source did to each target in the steps of a lookahead, with it minus without it.

    Args:
        run: directory of the lookahead.

    Returns:
        COLUMNS, a row a part and ordered pair, a task on itself included, in the order of parts, targets and sources.
        step: that the steps began at; steps: how many; part: `difference`, `odd` or `even`, as the table `lookahead`
        explains them; nats: of the target's validation loss in all of these steps, above 0 it harms, the mean over
        draws; low, high: 95% interval over draws and held-out examples, NaN of one draw; reliability, ceiling: of the
        part, over pairs of different tasks (`record.draws`); q: adjusted for the number of these pairs, NaN of a task
        on itself; sure: whether q is at most `judge.LEVEL`. No rows where no draw is complete.
    """
    return _told(run, "source IS NOT NULL")


def realized_matrix(run: Path) -> pd.DataFrame:
    """`realized` with a row an ordered pair, as a `predicted.transfer_matrix` has them.

    Returns:
        step, steps, draws, source, target; nats, low, high, q, verdict (`harms`, `helps` or `not sure`), reliability,
        ceiling: of the difference; odd, odd_low, odd_high and even, even_low, even_high.
    """
    parts = {str(part): rows.reset_index(drop=True) for part, rows in realized(run).groupby("part", sort=False)}
    if not parts:
        return pd.DataFrame(columns=["source", "target", "nats"])
    found = parts["difference"].drop(columns=["part", "sure"])
    found["verdict"] = verdicts(found["nats"].to_numpy(), parts["difference"]["sure"].to_numpy())
    for part in ("odd", "even"):
        found[[part, f"{part}_low", f"{part}_high"]] = parts[part][["nats", "low", "high"]].to_numpy()
    return found


def realized_progress(run: Path) -> pd.DataFrame:
    """How each target's held-out loss moved in the steps of a lookahead with all tasks.

    Returns:
        step, steps, target, nats, low, high, draws: as of `realized`, a row a target.
    """
    return _told(run, "source IS NULL")[["step", "steps", "target", "nats", "low", "high", "draws"]]


def _told(run: Path, which: str) -> pd.DataFrame:
    sql = f"SELECT step, draw, source, target, part, value, error FROM lookahead WHERE {which}"
    rows, info = ask_once(run, ("lookahead",), sql, Selection(), {}, "by_layer"), read_run(run)
    if rows.empty or info.probe is None:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    tasks = info.task_names
    order = {"part": PARTS, "target": tasks, "source": tasks}
    ordered = rows.assign(**{name: pd.Categorical(rows[name], known, ordered=True) for name, known in order.items()})
    ordered = ordered.sort_values(["draw", *order])
    draws = ordered["draw"].nunique()
    values, errors = (ordered[name].to_numpy(np.float64).reshape(draws, -1) for name in ("value", "error"))
    frame = ordered.iloc[: values.shape[1]].reset_index(drop=True).astype(dict.fromkeys(order, "str"))
    told = told_of(values, errors, list(zip(frame["source"], frame["target"], frame["part"], strict=True)))
    frame = frame.assign(steps=info.probe.steps, draws=draws, sure=told.q <= LEVEL, **told._asdict())
    return frame[list(COLUMNS)].astype(COLUMNS)
