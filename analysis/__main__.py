"""Look at a run from the terminal: `python -m analysis summary RUN_DIR`."""

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.queries import Selection, task_matrix
from analysis.runs import Run, final_metrics, open_run
from analysis.words import describe
from ortho_lora.errors import OrthoLoraError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False, help=__doc__)

_SPLIT = "validation"
_MATRIX = [
    "branch",
    "task_i",
    "task_j",
    "cos_before",
    "cos_low",
    "cos_high",
    "rate_before",
    "corrected",
    "corrected_low",
    "corrected_high",
    "cos_after",
]


@app.callback()
def main() -> None:
    """Look at recorded runs."""


@app.command()
def summary(
    run_dir: Annotated[Path, typer.Argument(help="Directory of one run, as in runs/20260101T120000-ortho-lora.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """State, final metrics beside the majority baseline, and how the tasks' gradients agree."""
    try:
        document = summarise(run_dir)
    except OrthoLoraError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    else:
        _print(document)


def summarise(run_dir: Path) -> dict[str, Any]:
    """Run, state, step, total, method, seed, tasks, metrics and pairs, ready for JSON; None: not measured.

    Raises:
        OrthoLoraError: not a run, or a part of it cannot be read.
    """
    path = run_dir.resolve()
    run: Run = open_run(path.parent, path.name)
    if run.info is None:
        raise OrthoLoraError(run.problem)
    if run.problem:
        typer.echo(f"warning: {run.problem}", err=True)
    final = final_metrics(run.path, run.info.tasks, _SPLIT)
    matrix = task_matrix(run.path, Selection())
    return {
        "run": run.run_id,
        "state": run.state,
        "step": run.status.step if run.status else None,
        "total": run.status.total if run.status else None,
        "method": run.info.method,
        "seed": run.info.seed,
        "tasks": run.info.task_names,
        "metrics": [
            {
                "task": task.name,
                "metric": task.metrics[0],
                "value": final.get(task.name),
                "majority": task.majority.get(_SPLIT, {}).get(task.metrics[0]),
            }
            for task in run.info.tasks
        ],
        "pairs": [
            {key: None if pd.isna(value) else value for key, value in row.items()}
            for row in matrix[_MATRIX].to_dict("records")
        ],
        "sentence": describe(matrix),
    }


def _print(document: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"[bold]{document['run']}[/bold]: {document['state']}, step {document['step']} of {document['total']}, "
        f"{document['method']}, seed {document['seed']}",
        highlight=False,
    )
    metrics = Table("task", "metric", box=SIMPLE_HEAD, title="Final validation metrics", title_justify="left")
    for heading in ("value", "majority"):
        metrics.add_column(heading, justify="right")
    for row in document["metrics"]:
        metrics.add_row(row["task"], row["metric"], _number(row["value"], ".3f"), _number(row["majority"], ".3f"))
    console.print(metrics)
    for branch in sorted({row["branch"] for row in document["pairs"]}):
        console.print(_pairs([row for row in document["pairs"] if row["branch"] == branch], branch))
    console.print(document["sentence"], highlight=False)
    console.print("Unrelated tasks conflict about half of the time by chance: read the cosines and their intervals.")


def _pairs(rows: list[dict[str, Any]], branch: str) -> Table:
    """A line a pair; without the corrected cosine where none could be told."""
    corrected = any(row["corrected"] is not None for row in rows)
    table = Table(box=SIMPLE_HEAD, title=f"Cosines on branch {branch}", title_justify="left")
    table.add_column("tasks", overflow="fold")
    headings = ["before", "95% interval", "conflicts", *(["corrected", "95% interval"] if corrected else []), "after"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            f"{row['task_i']} – {row['task_j']}",
            _number(row["cos_before"], "+.2f"),
            _interval(row["cos_low"], row["cos_high"]),
            _number(row["rate_before"], ".0%"),
        ]
        if corrected:
            cells += [_number(row["corrected"], "+.2f"), _interval(row["corrected_low"], row["corrected_high"])]
        table.add_row(*cells, _number(row["cos_after"], "+.2f"))
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.2f} {high:+.2f}"


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else f"{value:{style}}"


if __name__ == "__main__":
    app()
