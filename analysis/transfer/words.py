"""What predicted transfer says, in words."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.library.names import interval, nats_unit, number
from analysis.library.samples import is_sample
from analysis.transfer.compared import Agreement
from ortho_lora.record.schema import Identity, default_runs_dir

MEANING = (
    "A cell: what training on the column's task does to the row's validation loss, per step of this mixture, with the"
    " task minus without it, to first order; above 0 it harms. Pull: by its own gradient; crowding: through AdamW's"
    " step sizes, which all tasks share."
)

REALIZED = (
    "A cell: the row's held-out loss after real steps of the run's mixture, with the column's task minus without it."
)
TRIAL = (
    "To try it on common seeds, against joint, single and random groups of the same sizes; it prints and writes the"
    " study's file, with groups and weights, before it trains:"
)
ADVICE = (
    "Gains are of the sum of all targets' validation losses against one adapter with the run's weights, one step from"
    " here, below 0 better; on other texts: chosen on half of them, judged on the others."
)


def headline(matrix: pd.DataFrame) -> str:
    """Who harms whom most, and who helps, of what is sure; `matrix`: of `predicted.transfer_matrix`."""
    factor, unit = unit_of(matrix)
    others = matrix[(matrix["source"] != matrix["target"]) & matrix["nats"].notna()]
    sure = others[others["verdict"] != "not sure"]
    counted = f"{len(sure)} of {len(others)} effects of a task on another are sure"
    parts = []
    for verdict, rows in (("harms", sure.nlargest(1, "nats")), ("helps", sure.nsmallest(1, "nats"))):
        for row in rows[rows["verdict"] == verdict].to_dict("records"):
            parts.append(f"{row['source']} {verdict} {row['target']} most, {_nats(row, 'nats', factor, unit)} a step")
    return f"{'; '.join([*parts, counted])}."


def told_of_texts(texts: pd.DataFrame, source: str, target: str) -> str:
    """How many texts a step harms, in a sentence; `texts`: of `texts.texts_of`."""
    if texts.empty:
        return f"No single texts of {target} are recorded."
    harmed = int((texts["nats"] > 0).sum())
    return (
        f"By its own gradient alone (pull) a step for {source} raises the loss of {harmed} of {len(texts)} validation"
        f" texts of {target}."
    )


def told_of_gain(groups: pd.DataFrame, factor: float, unit: str) -> str:
    """What is predicted of the groups that are advised, against one adapter; empty where that is one adapter."""
    row = groups[groups["advised"]].iloc[0].to_dict()
    if row["adapters"] == 1:
        return ""
    return (
        f"Predicted, against one adapter: {_nats(row, 'gain', factor, unit)} a step of all validation losses together;"
        f" on other texts than they are chosen on {number(factor * row['elsewhere'], '+.1f')}."
    )


def told_of_groups(groups: pd.DataFrame) -> str:
    """What is advised, in a sentence; `groups`: of `advice.advised_groups`."""
    row = groups[groups["advised"]].iloc[0]
    if row["adapters"] == 1:
        return "Advised: one adapter; no split is worth another on other texts."
    if row["adapters"] == groups["adapters"].max():
        return f"Advised: {row['adapters']} adapters, one for each task: method single."
    return f"Advised: {row['adapters']} adapters; groups: {row['groups']}."


def trial_of(run: Path, info: Identity) -> str | None:
    """The command that trains what is advised, and what it is to be compared with, beside the run, or of a shipped one
    among one's own; None where a loop of its own trained the run, which nothing here can train again.
    """
    if "tasks" not in info.config:
        return None
    elsewhere = ["--runs-dir", str(default_runs_dir())] if is_sample(run) else []
    return shlex.join(["ortho-lora", "study", "--from-advice", str(run), *elsewhere])


def unit_of(frame: pd.DataFrame) -> tuple[float, str]:
    """As `names.nats_unit`, of a `transfer_matrix`."""
    return nats_unit(float(frame["nats"].abs().max()))


MOST_TARGETS = 12
"""Of which each has a sentence; of more those that anything is sure of."""


def told_of_targets(matrix: pd.DataFrame, progress: pd.DataFrame) -> list[str]:
    """A sentence a target: its progress, and who harms and who helps it most, of those that are sure.

    Of more than MOST_TARGETS those have one that are changed by another task, or overfit, and one line counts the rest.

    Args:
        matrix: of `predicted.transfer_matrix`.
        progress: of `predicted.target_progress`, of the same snapshot.
    """
    factor, unit = unit_of(matrix)
    found, unchanged = [], 0
    for row in progress.to_dict("records"):
        others = matrix[(matrix["target"] == row["target"]) & (matrix["source"] != row["target"])]
        own = matrix[(matrix["target"] == row["target"]) & (matrix["source"] == row["target"])]
        parts = [f"{row['target']}: {_nats(row, 'nats', factor, unit)} a step"]
        if not np.isnan(row["alone"]):
            parts[0] += f", alone {number(factor * row['alone'])}"
        if len(own) and own["verdict"].iloc[0] == "harms":
            parts.append("its own texts harm it: it overfits")
        for verdict, sign in (("harms", -1), ("helps", 1)):
            sure = others[others["verdict"] == verdict].sort_values("nats", ascending=sign > 0)
            if len(sure):
                first = sure.iloc[0]
                parts.append(f"{first['source']} {verdict} it most ({number(factor * first['nats'])} {unit})")
        if len(parts) == 1 and len(progress) > MOST_TARGETS:
            unchanged += 1
            continue
        if not (others["verdict"] != "not sure").any():
            parts.append("no other task is sure to change it")
        found.append("; ".join(parts) + ".")
    return [*found, f"No other task is sure to change any of the other {unchanged}."] if unchanged else found


def told_of_agreement(known: Agreement) -> str:
    """How well what came was predicted."""
    ends = interval(known.spearman_low, known.spearman_high)
    right = f"; of {known.sure} that were sure {known.right:.0%} have the right sign" if known.sure else ""
    return (
        f"{known.pairs} pairs: rank correlation {number(known.spearman)} ({ends}), Pearson {number(known.pearson)}"
        f" where noise allows {number(known.ceiling)}; {number(known.slope)} came for 1 predicted{right}."
    )


def described(matrix: pd.DataFrame) -> str:
    """A `transfer_matrix` in one sentence, for who does not see it."""
    factor, unit = unit_of(matrix)
    others = matrix[matrix["source"] != matrix["target"]]
    sure = others[others["verdict"] != "not sure"]
    said = f"What each of {matrix['source'].nunique()} tasks does to the validation loss of"
    said += f" {matrix['target'].nunique()}: {len(sure)} of {len(others)} effects are sure"
    if sure.empty:
        return f"{said}."
    worst, best = sure.loc[sure["nats"].idxmax()], sure.loc[sure["nats"].idxmin()]
    named = (
        f"{row['source']} on {row['target']} {number(factor * row['nats'])} {unit} a step" for row in (worst, best)
    )
    return f"{said}; from {' to '.join(named)}."


def _nats(row: Any, name: str, factor: float, unit: str) -> str:
    value, low, high = (factor * row[of] for of in (name, "low", "high"))
    style = "+.1f" if abs(value) >= 10 else "+.2f"
    return f"{number(value, style)} {unit} ({interval(low, high, style)})"


def missing(info: Identity, *, held_out: bool) -> str:
    """Why there is nothing to tell, and how to get it; `held_out`: whether a snapshot has targets."""
    run_id = info.run_id
    if info.groups:
        return (
            f"{run_id}: its tasks share {len(info.groups)} adapters: transfer is told of a run whose tasks share one."
        )
    if held_out:
        return (
            f"{run_id}: its snapshots do not tell the learning rate, or no target has texts in 8 groups: give"
            " `optimizer=` to `surgeon.snapshot`, or more held-out texts."
        )
    return (
        f"{run_id}: no snapshot of it has held-out targets. `ortho-lora probe RUN` takes one at its checkpoint; in"
        " training do `snapshots: 2` and `snapshot_held_out: 64`; in a Trainer `watch(..., snapshots=2)` with an"
        " `eval_dataset` by tasks; in a loop of your own `surgeon.snapshot(..., targets=...)`."
    )
