"""A run in short: state, final metrics beside the majority baseline, and a verdict on each pair of tasks."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.conflict.queries import Selection, task_matrix
from analysis.conflict.snapshots import WHOLE, snapshot_pairs
from analysis.figures.words import describe
from analysis.library.names import branch_title, branches_of, interval, number
from analysis.library.runs import SPLIT, final_metrics, identified
from analysis.output.terminal import table_of
from ortho_lora.errors import plain


def summarise(run_dir: Path) -> dict[str, Any]:
    """Run, state, step, total, method, seed, probe, tasks, metrics and pairs, ready for JSON; None: not measured.

    `probe` says where a probe or lookahead measured, as in `at step 100 of run demo`; None: a run that trained.
    `ahead`: optimizer steps of a lookahead, in each draw; None: it is none.

    Raises:
        OrthoLoraError: not a run, or a part of it cannot be read.
    """
    run, info = identified(run_dir)
    if run.problem:
        print(f"warning: {plain(run.problem)}", file=sys.stderr)
    final = final_metrics(run.path, info.tasks)
    matrix = task_matrix(run.path, Selection())
    return {
        "run": run.run_id,
        "state": run.state,
        "step": run.status.step if run.status else None,
        "total": run.status.total if run.status else None,
        "method": info.method,
        "seed": info.seed,
        "probe": info.probe.where if info.probe else None,
        "ahead": (info.probe.steps or None) if info.probe else None,
        "tasks": info.task_names,
        "left_out": {task.name: task.left_out for task in info.tasks if task.left_out},
        "metrics": [
            {
                "task": task.name,
                "metric": task.metrics[0],
                "value": final.get(task.name),
                "majority": task.majority.get(SPLIT, {}).get(task.metrics[0]),
            }
            for task in info.tasks
            if task.metrics  # a loop of somebody's own evaluates nothing
        ],
        "pairs": _rows(matrix),
        "snapshots": _rows(snapshot_pairs(run.path)),
        "sentence": describe(matrix),
    }


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """For JSON, which has no NaN."""
    return [{key: None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")]


def print_summary(document: dict[str, Any]) -> None:
    """What `summarise` found, on a terminal."""
    console = Console()
    done = f"{document['step']} of {document['total']}"
    progress = f"probe {document['probe']}, batch {done}" if document["probe"] else f"step {done}"
    if document["ahead"]:
        progress = f"lookahead of {document['ahead']} steps {document['probe']}, step {done}"
    told = f": {document['state']}, {progress}, {document['method']}, seed {document['seed']}"
    console.print(Text.assemble((plain(document["run"]), "bold"), plain(told)))
    if document["metrics"] and not document["probe"]:
        console.print(_metrics(document["metrics"]))
    for task, rows in document["left_out"].items():
        console.print(Text(plain(f"Rows left out of {task}: {rows}.")))
    for branch in branches_of(row["branch"] for row in document["pairs"]):
        console.print(_pairs([row for row in document["pairs"] if row["branch"] == branch], branch))
    console.print(Text(plain(document["sentence"])))
    console.print("negative: share of batch cosines; half by chance. after: mean batch cosine after the rule.")


def _metrics(rows: list[dict[str, Any]]) -> Table:
    metrics = table_of(["task", "metric"], ["value", "majority"], "Final validation metrics")
    for row in rows:
        metrics.add_row(
            Text(plain(row["task"])),
            Text(plain(row["metric"])),
            number(row["value"], ".3f"),
            number(row["majority"], ".3f"),
        )
    return metrics


def _pairs(rows: list[dict[str, Any]], branch: str) -> Table:
    title = branch_title(branch)
    if (step := rows[0]["snapshot"]) is not None:
        title += f", cosines of snapshots up to step {step}"
    numbers = ["cosine", "95% interval", *(["batch\ncosine", "negative", "after"] if branch != WHOLE else [])]
    table = table_of(["tasks", "verdict"], numbers, title)
    for row in rows:
        seen = [number(row["cos_before"]), number(row["rate_before"], ".0%"), number(row["cos_after"])]
        table.add_row(
            Text(plain(f"{row['task_i']} – {row['task_j']}")),
            row["verdict"],
            number(row["cosine"]),
            interval(row["cosine_low"], row["cosine_high"]),
            *(seen if branch != WHOLE else []),
        )
    return table
