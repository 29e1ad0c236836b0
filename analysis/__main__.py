"""Look at runs from the terminal: `python -m analysis summary RUN_DIR`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from analysis import replay as replays
from analysis.diagnosis import diagnose as diagnosis_of
from analysis.queries import Selection, task_matrix
from analysis.runs import Run, final_metrics, open_run
from analysis.terminal import plain, print_diagnosis, print_replays
from analysis.words import describe
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import RunInfo

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False, help=__doc__)

_SPLIT = "validation"
_RUN_HELP = "Directory of one run, as in runs/20260101T120000-ortho-lora."
_JSON_HELP = "Print one JSON document."
_MATRIX = [
    "branch",
    "task_i",
    "task_j",
    "cos_before",
    "cos_low",
    "cos_high",
    "effective",
    "rate_before",
    "rate_low",
    "rate_high",
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
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """State, final metrics beside the majority baseline, and how the tasks' gradients agree."""
    with _refusals():
        document = summarise(run_dir)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    else:
        _print(document)


@app.command()
def diagnose(
    run_dirs: Annotated[list[Path], typer.Argument(help="Directories of runs.")],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """A verdict on each pair of tasks: conflict, aligned, indistinguishable from noise, or not enough data."""
    with _refusals():
        found = [diagnosis_of(_opened(run_dir)[0]) for run_dir in run_dirs]
    if as_json:
        typer.echo(json.dumps([one.document() for one in found], indent=1, allow_nan=False))
        return
    for one in found:
        print_diagnosis(Console(), one)


@app.command()
def replay(
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    rule: Annotated[str | None, typer.Option(help=f"One of {', '.join(replays.RULES)}; default: a table.")] = None,
    scope: Annotated[str, typer.Option(help=f"One of {', '.join(replays.SCOPES)}.")] = "block",
    branches: Annotated[str, typer.Option(help="both, A or B: the other takes the plain sum.")] = "both",
    order: Annotated[str, typer.Option(help="recorded, or mean: over all orders of the tasks.")] = "recorded",
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """What another rule or scope would have done in each recorded step of a run; one step ahead only."""
    with _refusals():
        path, info = _opened(run_dir)
        methods = replays.INTERESTING if rule is None else ((rule, scope, branches),)
        if rule is None and (scope, branches) != ("block", "both"):
            raise OrthoLoraError(
                "--scope and --branches expect a --rule; without one every method of a table is shown."
            )
        found = [replays.replay(path, *method, order=order) for method in methods]
    if as_json:
        typer.echo(json.dumps(replays.document(path, found), indent=1, allow_nan=False))
    else:
        print_replays(Console(), info.run_id, info.method, found)


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


@contextmanager
def _refusals() -> Iterator[None]:
    """One sentence in place of a traceback."""
    try:
        yield
    except OrthoLoraError as error:
        typer.echo(f"error: {plain(str(error))}", err=True)
        raise typer.Exit(1) from None


def _opened(run_dir: Path) -> tuple[Path, RunInfo]:
    path = run_dir.resolve()
    run = open_run(path.parent, path.name)
    if run.info is None:
        raise OrthoLoraError(run.problem)
    return run.path, run.info


def _print(document: dict[str, Any]) -> None:
    console = Console()
    console.print(
        Text.assemble(
            (plain(document["run"]), "bold"),
            plain(
                f": {document['state']}, step {document['step']} of {document['total']}, {document['method']}, "
                f"seed {document['seed']}"
            ),
        )
    )
    metrics = Table("task", "metric", box=SIMPLE_HEAD, title="Final validation metrics", title_justify="left")
    for heading in ("value", "majority"):
        metrics.add_column(heading, justify="right")
    for row in document["metrics"]:
        metrics.add_row(
            Text(plain(row["task"])),
            Text(plain(row["metric"])),
            _number(row["value"], ".3f"),
            _number(row["majority"], ".3f"),
        )
    console.print(metrics)
    for branch in sorted({row["branch"] for row in document["pairs"]}):
        console.print(_pairs([row for row in document["pairs"] if row["branch"] == branch], branch))
    console.print(Text(plain(document["sentence"])))
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
        cells: list[RenderableType] = [
            Text(plain(f"{row['task_i']} – {row['task_j']}")),
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
