"""What a lookahead found: what tasks did to each other's held-out loss in some real optimizer steps."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reading.database import Selection, ask_once
from ortho_lora.record.draws import PARTS, ceiling, effects_of, reliability
from ortho_lora.record.judge import LEVEL, false_discovery
from ortho_lora.record.schema import read_run

COLUMNS = (
    "step", "steps", "source", "target", "part", "nats", "low", "high", "draws", "reliability", "ceiling", "q", "sure",
)  # fmt: skip


def realized(run: Path) -> pd.DataFrame:
    """What each source did to each target in the steps of a lookahead, with it minus without it.

    Args:
        run: directory of the lookahead.

    Returns:
        A row an ordered pair, a task on itself included, and part, in the order of parts and tasks. step: that the
        steps began at; steps: how many; part: `difference`, `odd` or `even`, as the table `lookahead` explains them;
        nats: of the target's validation loss in all of these steps, above 0 it harms, mean over draws, with its 95%
        interval over draws and held-out examples (`record.draws`), NaN of one draw; reliability, ceiling: of the part,
        over pairs of different tasks; q: adjusted for the number of these pairs, NaN of a task on itself; sure: whether
        q is at most `judge.LEVEL`. No rows where no draw is complete.
    """
    return _told(run, "source IS NOT NULL")


def realized_progress(run: Path) -> pd.DataFrame:
    """How each target's held-out loss moved in the steps of a lookahead with all tasks, as of `realized`.

    Returns:
        A row a target: step, steps, target, nats, low, high, draws.
    """
    return _told(run, "source IS NULL")[["step", "steps", "target", "nats", "low", "high", "draws"]]


def _told(run: Path, which: str) -> pd.DataFrame:
    sql = f"SELECT step, draw, source, target, part, value, error FROM lookahead WHERE {which}"
    rows = ask_once(run, ("lookahead",), sql, Selection(), {}, "by_layer")
    info = read_run(run)
    if rows.empty or info.probe is None:
        return pd.DataFrame({name: pd.Series(dtype=_TYPES.get(name, "float64")) for name in COLUMNS})
    tasks = info.task_names
    order = {"part": PARTS, "target": tasks, "source": tasks}
    ordered = rows.assign(**{name: pd.Categorical(rows[name], known, ordered=True) for name, known in order.items()})
    ordered = ordered.sort_values(["draw", "part", "target", "source"])
    draws = ordered["draw"].nunique()
    values, errors = (ordered[name].to_numpy(np.float64).reshape(draws, -1) for name in ("value", "error"))
    told = effects_of(values, errors)
    frame = ordered.iloc[: values.shape[1]][["step", "source", "target", "part"]].reset_index(drop=True)
    frame = frame.astype(dict.fromkeys(order, "str"))
    low, high = told.interval()
    frame = frame.assign(steps=info.probe.steps, nats=told.value, low=low, high=high, draws=draws, q=np.nan)
    for part in frame["part"].unique():
        pairs = np.flatnonzero((frame["part"] == part) & (frame["source"] != frame["target"]))
        of_part = frame["part"] == part
        frame.loc[of_part, "reliability"] = reliability(values[:, pairs])
        frame.loc[of_part, "ceiling"] = ceiling(values[:, pairs], errors[:, pairs])
        frame.loc[pairs, "q"] = false_discovery(told.p_value()[pairs])
    return frame.assign(sure=frame["q"] <= LEVEL)[list(COLUMNS)]


_TYPES = dict.fromkeys(("step", "steps", "draws"), "int64") | dict.fromkeys(("source", "target", "part"), "str")
_TYPES["sure"] = "bool"
