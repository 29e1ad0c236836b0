"""Predicted transfer as text for a terminal, and as a document."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from analysis.library.names import interval, number
from analysis.library.runs import identified
from analysis.output.terminal import table_of
from analysis.transfer.advice import advised_groups, advised_weights
from analysis.transfer.compared import agreement, compared
from analysis.transfer.predicted import over_transfer, says_nats, target_progress, transfer_matrix, transfer_steps
from analysis.transfer.realized import realized, realized_progress
from analysis.transfer.words import (
    ADVICE,
    MEANING,
    TRIAL,
    missing,
    told_of_groups,
    told_of_targets,
    trial_of,
    unit_of,
)  # fmt: skip
from ortho_lora.errors import OrthoLoraError, plain


def document(run_dir: Path, mixture: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Ready for JSON; None: not known.

    Returns:
        run; unit: of all numbers; transfer: `predicted.transfer_matrix` of each snapshot; together: the same of all
        that count together; targets: `predicted.target_progress`, of them together, in the mixture asked.

    Raises:
        OrthoLoraError: not a run, it has no snapshot with held-out targets, or the mixture is none of its tasks.
    """
    run = _checked(run_dir)
    weights, gain = advised_weights(run)
    return {
        "run": str(run),
        "unit": "nats of the target's validation loss a step",
        "transfer": _records(over_transfer(run)),
        "together": _records(transfer_matrix(run)),
        "targets": _records(target_progress(run, mixture)),
        "groups": _records(advised_groups(run)),
        "weights": {"tasks": _records(weights), **gain},
    }


def print_transfer(console: Console, run_dir: Path, mixture: Mapping[str, float] | None = None) -> None:
    """The matrix, and a sentence a target; of another mixture how its targets would do. Raises as `document`."""
    run = _checked(run_dir)
    progress = target_progress(run, mixture)
    matrix = transfer_matrix(run)
    factor, unit = unit_of(matrix)
    if mixture is not None:
        _print_mixture(console, progress, target_progress(run), mixture, factor, unit)
        return
    steps = transfer_steps(run)
    console.print(
        Text(plain(f"{run.name}: {unit} a step, at {'steps' if len(steps) > 1 else 'step'} "), "bold"), end=""
    )
    console.print(Text(", ".join(map(str, steps)), "bold"))
    sources = list(dict.fromkeys(matrix["source"]))
    table = table_of(["target"], [plain(source) for source in sources])
    for target, rows in matrix.groupby("target", sort=False):
        table.add_row(Text(plain(str(target))), *(_cell(row, factor) for row in rows.to_dict("records")))
    console.print(table)
    console.print(Text(f"{MEANING} Bold: sure."))
    for line in told_of_targets(matrix, progress):
        console.print(Text(plain(line)))
    _print_advice(console, run, factor, unit)


def lookahead_document(run_dir: Path, snapshot: Path | None = None) -> dict[str, Any]:
    """What a lookahead found, ready for JSON, and beside it what a snapshot there predicted; raises as `compared`."""
    frame = realized(run_dir)
    found: dict[str, Any] = {
        "run": str(run_dir),
        "unit": "nats of the target's validation loss in all steps",
        "realized": _records(frame),
        "progress": _records(realized_progress(run_dir)),
    }
    if snapshot is not None:
        beside = compared(run_dir, snapshot)
        found |= {"compared": _records(beside), "agreement": _records(pd.DataFrame(agreement(beside)))}
    return found


def print_lookahead(console: Console, run_dir: Path, snapshot: Path | None = None) -> None:
    """The effects of a lookahead, part by part, and how well they were predicted; raises as `compared`."""
    frame = realized(run_dir)
    if frame.empty:
        raise OrthoLoraError(f"{run_dir}: no draw of a lookahead is complete there.")
    factor, unit = unit_of(frame)
    steps, draws = (int(frame[name].iloc[0]) for name in ("steps", "draws"))
    console.print(Text(plain(f"{run_dir.name}: {unit} in {steps} steps, mean of {draws} draws"), "bold"))
    for part, rows in frame.groupby("part", sort=False):
        title = f"{part}: reliability {number(rows['reliability'].iloc[0])}, ceiling {number(rows['ceiling'].iloc[0])}"
        table = table_of(["target"], [plain(source) for source in dict.fromkeys(rows["source"])], title)
        for target, of in rows.groupby("target", sort=False):
            cells = [
                Text(number(factor * row["nats"]), "bold" if row["sure"] else "dim") for row in of.to_dict("records")
            ]
            table.add_row(Text(plain(str(target))), *cells)
        console.print(table)
    if snapshot is None:
        console.print(Text("Bold: sure. --predicted SNAPSHOT compares with what a snapshot at this place predicts."))
        return
    table = table_of(["part"], ["Pearson", "Spearman", "slope", "sure, right", "ceiling"], "Predicted and realized")
    for one in agreement(compared(run_dir, snapshot)):
        table.add_row(
            one.part,
            f"{number(one.pearson)}\n{interval(one.pearson_low, one.pearson_high)}",
            f"{number(one.spearman)}\n{interval(one.spearman_low, one.spearman_high)}",
            number(one.slope),
            f"{one.sure}, {number(one.right, '.0%')}",
            number(one.ceiling),
        )
    console.print(table)


def _print_advice(console: Console, run: Path, factor: float, unit: str) -> None:
    columns = [f"{unit} a step", "95% interval", "on other texts"]
    table = table_of(["adapters", "groups"], columns, "Who should share an adapter")
    groups = advised_groups(run)
    for row in groups.to_dict("records"):
        style = "bold" if row["advised"] else ""
        cells = [str(row["adapters"]), plain(row["groups"]), *_gain(row, factor)]
        table.add_row(*(Text(cell, style) for cell in cells))
    console.print(table)
    console.print(Text(plain(told_of_groups(groups))))
    weights, gain = advised_weights(run)
    table = table_of(["task"], ["weight", "advised"], "How to weigh the losses of one adapter")
    for row in weights.to_dict("records"):
        table.add_row(Text(plain(row["task"])), f"{row['weight']:.2f}", f"{row['advised']:.2f}")
    console.print(table)
    value, ends, elsewhere = _gain(gain, factor)
    console.print(Text(f"Weighed so: {value} {unit} a step ({ends}), on other texts {elsewhere}. {ADVICE}"))
    if trial := trial_of(run, identified(run)[1]):
        console.print(Text(plain(f"{TRIAL}\n  {trial}")), soft_wrap=True)


def _gain(row: Mapping[Any, Any], factor: float) -> tuple[str, str, str]:
    ends = interval(factor * row["low"], factor * row["high"])
    return number(factor * row["gain"]), ends, number(factor * row["elsewhere"])


def _print_mixture(
    console: Console,
    progress: pd.DataFrame,
    now: pd.DataFrame,
    mixture: Mapping[str, float],
    factor: float,
    unit: str,
) -> None:
    said = ", ".join(f"{name} {weight:g}" for name, weight in mixture.items())
    console.print(Text(plain(f"Mixture of {said}: {unit} a step"), "bold"))
    table = table_of(["target"], ["in this mixture", "95% interval", "in the run's", "alone"])
    for row, of_run in zip(progress.to_dict("records"), now.to_dict("records"), strict=True):
        values = (number(factor * of[name]) for of, name in ((row, "nats"), (of_run, "nats"), (row, "alone")))
        here, there, alone = values
        ends = interval(factor * row["low"], factor * row["high"])
        table.add_row(Text(plain(str(row["target"]))), here, ends, there, alone)
    console.print(table)


def _cell(row: Mapping[Any, Any], factor: float) -> Text:
    return Text(number(factor * row["nats"]), "bold" if row["verdict"] != "not sure" else "dim")


def _checked(run_dir: Path) -> Path:
    run, info = identified(run_dir)
    if not says_nats(transfer_matrix(run.path)):
        raise OrthoLoraError(missing(info, held_out=bool(transfer_steps(run.path))))
    return run.path


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
