"""The numbers of a study as the text of tables, for terminal and Markdown alike."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from analysis.library.names import interval, number
from analysis.outcomes.units import amount, range_of
from analysis.study.advised import NOTE
from analysis.study.cost import OF_EQUAL_SECONDS, PAPER_COST
from analysis.study.fairness import RULE
from analysis.study.findings import Findings

_DASH = "–"


@dataclass(frozen=True)
class Table:
    """A heading, what to know of it, and text by row and column."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(findings: Findings) -> list[Table]:
    """All tables that have rows."""
    return [table for table in _every(findings) if table.rows]


def final_metrics(findings: Findings) -> Table:
    """A row a condition and method, a column a task."""
    return _wide(
        findings.means,
        "Final metrics",
        "Last value on the split `validation`: mean over seeds ± standard deviation. Twins, whose labels are flipped,"
        " are left out.",
        lambda row: f"{row['mean']:.3f}" + ("" if pd.isna(row["spread"]) else f" ± {row['spread']:.3f}"),
    )


def _every(findings: Findings) -> Iterator[Table]:
    baseline = findings.baseline
    yield _listed(
        findings.advice,
        "The advice, and what came of it",
        NOTE,
        {
            "settings": lambda row: row["settings"] or _DASH,
            "predicted": lambda row: number(1e3 * row["predicted"], "+.3g"),
            "on other texts": lambda row: number(1e3 * row["elsewhere"], "+.3g"),
            "at the end": _loss,
            "seeds": lambda row: str(row["seeds"]),
        },
    )
    yield final_metrics(findings)
    yield _wide(
        findings.gains,
        f"Gain over {baseline}",
        "Points (hundredths), positive where better, with the 95% interval over paired seeds and examples; *: the"
        " interval excludes 0.",
        lambda row: _gain(row) + ("*" if row["clear"] else ""),
    )
    yield _listed(
        findings.relative,
        "One number for all tasks",
        "Delta_m: mean relative change to single-task training in percent. Rank: mean place among the methods, 1 the"
        " best.",
        {
            "Delta_m %": lambda row: number(row["delta_m"], "+.1f"),
            "95% interval": lambda row: interval(row["low"], row["high"], "+.1f"),
            "mean rank": lambda row: number(row["rank"], ".2f") + _after(row["rank_spread"]),
        },
    )
    yield _listed(
        _without_twins(findings.recovery),
        "Gap recovery",
        f"(method − {baseline}) / (single − {baseline}), with Fieller's 95% interval.",
        {
            "task": lambda row: row["task"],
            f"single over {baseline}": lambda row: _gain(row, "gap", "gap_low", "gap_high"),
            "what of it": lambda row: row["in words"],
        },
    )
    yield _listed(
        findings.headline(findings.equal_seconds),
        "Equal seconds",
        OF_EQUAL_SECONDS,
        {
            "task": lambda row: row["task"],
            "seconds": lambda row: number(row["seconds"], ".1f"),
            "steps done": lambda row: number(row["steps"], ".0f"),
            "metric": lambda row: number(row["mean"], ".3f"),
            f"gain over {baseline}": _gain,
        },
    )
    yield _listed(
        findings.costs,
        "Cost",
        f"Of training, without evaluation; the paper reports {PAPER_COST} times joint training for Ortho-LoRA. Runs"
        " that shared the machine slow each other down.",
        {
            "seconds a step": lambda row: number(row["step_seconds"], ".3f"),
            f"over {baseline}": lambda row: number(row["relative"], ".2f"),
            "seconds in all": lambda row: number(row["total_seconds"], ".1f"),
            "peak memory, MB": lambda row: number(row["peak_bytes"] / 1e6, ".0f"),
            "runs": lambda row: str(row["runs"]),
        },
    )
    conflicts = findings.conflicts
    projecting = conflicts.loc[conflicts["projected"] > 0, "method"]
    yield _listed(
        conflicts[(conflicts["method"] == baseline) | conflicts["method"].isin(projecting)],
        "Conflict",
        "Cosine of each pair's gradients before projection, and the share below 0: means over blocks, steps and seeds."
        " *Corrected*: without batch noise, where the signal is clear; of tasks that draw the same texts, of batches."
        " Projected: in how many of all cases the rule did.",
        {
            "pair": lambda row: f"{row['task_i']}, {row['task_j']}",
            "cosine": lambda row: number(row["cosine"], "+.2f"),
            "corrected": lambda row: number(row["corrected"], "+.2f"),
            "negative": lambda row: number(row["conflict_rate"], ".0%"),
            "projected": lambda row: number(row["projected"], ".0%"),
        },
    )
    yield _listed(
        findings.transfer,
        "Transfer",
        f"Each task trained with one other ({baseline}) less alone (single).",
        {
            "task": lambda row: row["task"],
            "beside": lambda row: row["beside"],
            "alone": lambda row: number(row["alone"], ".3f"),
            "together": lambda row: number(row["together"], ".3f"),
            "transfer": lambda row: _gain(row, "transfer") + ("*" if row["clear"] else ""),
        },
        method=False,
    )
    yield _listed(
        findings.correlations,
        "Does measured conflict foretell measured harm?",
        "Correlation over pairs, positive where more conflict goes with more harm. By chance: what exchanging the tasks"
        " makes of it in 95% of all cases; p: the share of exchanges that lie as far from 0.",
        {
            "conflict": lambda row: row["conflict"],
            "harm": lambda row: row["harm"],
            "kind": lambda row: row["kind"],
            "correlation": lambda row: number(row["value"], "+.2f"),
            "by chance": lambda row: interval(row["chance_low"], row["chance_high"], "+.2f"),
            "p": lambda row: number(row["p"], ".2g"),
            "pairs": lambda row: str(row["pairs"]),
            "tasks": lambda row: str(row["tasks"]),
        },
        method=False,
    )
    yield _listed(
        findings.tried if not findings.tried["chosen"].all() else findings.tried[:0],  # one setting each: no choice
        "What was tried",
        RULE,
        {
            "settings": lambda row: row["settings"] or _DASH,
            "score": lambda row: number(row["score"], ".3f"),
            "": lambda row: ("chosen" + (", at the edge of the grid" if row["edge"] else "")) if row["chosen"] else "",
        },
    )
    missing = findings.runs[findings.runs["state"] != "finished"]
    yield _listed(
        missing,
        "Runs that have not finished",
        "",
        {name: partial(_text, name) for name in ("run", "tasks", "seed", "state", "message")},
    )


_Cell = Callable[[dict[str, Any]], str]


def _wide(frame: pd.DataFrame, title: str, note: str, cell: _Cell) -> Table:
    """A row a condition and method, a column a task."""
    frame = _without_twins(frame)
    tasks = list(dict.fromkeys(frame["task"]))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        rows.setdefault((row["condition"], row["method"]), {})[row["task"]] = cell(row)
    conditions = _has_conditions(frame)
    heads = (*(("condition",) if conditions else ()), "method", *tasks)
    texts = [
        (*((condition,) if conditions else ()), method, *(found.get(task, _DASH) for task in tasks))
        for (condition, method), found in rows.items()
    ]
    return Table(title, note, heads, tuple(texts))


def _listed(frame: pd.DataFrame, title: str, note: str, columns: dict[str, _Cell], *, method: bool = True) -> Table:
    """A row a row of the frame."""
    keys = [*(["condition"] if _has_conditions(frame) else []), *(["method"] if method else [])]
    texts = [
        (*(row[key] for key in keys), *(cell(row) for cell in columns.values())) for row in frame.to_dict("records")
    ]
    return Table(title, note, (*keys, *columns), tuple(texts))


def _without_twins(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["twin"].astype(bool)]


def _has_conditions(frame: pd.DataFrame) -> bool:
    return bool((frame["condition"] != "").any()) if "condition" in frame else False


def _gain(row: dict[str, Any], value: str = "gain", low: str = "low", high: str = "high") -> str:
    if pd.isna(row[value]):
        return _DASH
    told = amount(row[value], row["metric"]).removesuffix(" points")
    return told if pd.isna(row[low]) else f"{told} ({range_of(row[low], row[high], row['metric'])})"


def _loss(row: dict[str, Any]) -> str:
    told = number(row["loss"], "+.3f")
    return told if pd.isna(row["low"]) else f"{told} ({interval(row['low'], row['high'], '+.3f')}){'*' * row['clear']}"


def _text(name: str, row: dict[str, Any]) -> str:
    return str(row[name]) or _DASH


def _after(spread: float) -> str:
    return "" if pd.isna(spread) else f" ± {spread:.2f}"
