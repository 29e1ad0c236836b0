"""Look at runs from the terminal: `python -m analysis summary RUN_DIR`."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.conflict import replay as replays
from analysis.conflict.queries import Selection, task_matrix
from analysis.diagnosis.diagnose import diagnose as diagnosis_of
from analysis.figures.words import describe
from analysis.library.names import interval, number
from analysis.library.runs import Run, final_metrics, run_at
from analysis.output import files
from analysis.output.data import DATA, frame_of
from analysis.output.terminal import plain, print_diagnosis, print_replays
from analysis.report.page import default_path, write_report
from analysis.study.drawing import write_figures
from analysis.study.findings import find as find_study
from analysis.study.printing import markdown, print_study
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Identity

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False, help=__doc__)

Branch = Literal["A", "B"]

_SPLIT = "validation"
_RUN_HELP = "Directory of one run, as in runs/20260101T120000-ortho-lora."
_JSON_HELP = "Print one JSON document."


@app.callback()
def main() -> None:
    """Look at recorded runs."""


@app.command()
def summary(
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """State, final metrics beside the majority baseline, and a verdict on each pair of tasks."""
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
    """A verdict on each pair of tasks: conflict, aligned, no conflict worth the name, or not enough data."""
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
        print_replays(Console(), info, found)


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Directories of runs; several are also compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: RUN-report.html, here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file even if it is no report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """One HTML file with verdicts, figures, configuration and versions; it works offline and loads nothing."""
    with _refusals():
        runs = _runs(run_dirs)
        path = output or default_path(runs)
        write_report(runs, path, force)
    size = path.stat().st_size
    if as_json:
        written = {"report": str(path), "bytes": size, "runs": [run.run_id for run in runs]}
        typer.echo(json.dumps(written, indent=1))
    else:
        typer.echo(f"wrote {plain(str(path))} ({size / 1e6:.1f} MB)")


@app.command()
def export(
    run_dirs: Annotated[list[Path] | None, typer.Argument(help="Directories of runs; all go into one table.")] = None,
    what: Annotated[
        list[str] | None, typer.Option(help="Name of the data, as in --list; may be repeated; default: all of them.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for one --what, else a directory; `-`: one CSV to standard output."),
    ] = None,
    form: Annotated[
        files.Format | None, typer.Option("--format", help="Default: as the file is named, else csv.")
    ] = None,
    pair: Annotated[tuple[str, str] | None, typer.Option(help="Two tasks: their pair only.")] = None,
    steps: Annotated[tuple[int, int] | None, typer.Option(help="First and last step.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="This layer only; may be repeated.")] = None,
    module: Annotated[list[str] | None, typer.Option(help="This module only, as in query; may be repeated.")] = None,
    branch: Annotated[Branch | None, typer.Option(help="This branch only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the names with what they are, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """The data of any figure as CSV or Parquet; without --what those of all figures, into a directory."""
    if listing:
        _list(as_json)
        return
    selection = Selection(
        steps=steps,
        layers=tuple(layer) if layer else None,
        modules=tuple(module) if module else None,
        branches=(branch,) if branch else None,
    )
    with _refusals():
        if not run_dirs:
            raise OrthoLoraError("export: no run given, expected at least one RUN_DIR; --list shows what there is.")
        runs = _runs(run_dirs)
        plan = files.planned([run.path for run in runs], what or [], output, form)
        if plan.file == Path("-"):
            sys.stdout.write(files.csv_text(frame_of(plan.names[0], plan.runs, selection, pair)))
            return
        done = files.export(plan, selection, pair, force)
    for problem in done.left_out:
        typer.echo(f"left out: {plain(problem)}", err=True)
    if as_json:
        typer.echo(json.dumps(done.document(), indent=1))
        return
    for one in done.written:
        typer.echo(f"wrote {plain(str(one.path))} ({one.rows:,} rows)")


@app.command()
def study(
    directory: Annotated[Path, typer.Argument(help="Directory of a study, as `ortho_lora study` makes it.")],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    figures: Annotated[
        Path | None, typer.Option(help="Folder to write the figures to, as pages that work offline.")
    ] = None,
) -> None:
    """What a study shows: gains with intervals, gap recovery, transfer, cost, and whether it was fair."""
    with _refusals():
        found = find_study(directory)
        written = write_figures(found, figures) if figures else []
    if as_json:
        typer.echo(json.dumps(found.document(), indent=1, allow_nan=False))
    elif as_markdown:
        typer.echo(markdown(found), nl=False)
    else:
        print_study(Console(), found)
    for path in written:
        typer.echo(f"wrote {plain(str(path))}", err=True)


def summarise(run_dir: Path) -> dict[str, Any]:
    """Run, state, step, total, method, seed, probe, tasks, metrics and pairs, ready for JSON; None: not measured.

    `probe` says where one measured, as in `at step 100 of run demo`; None: a run that trained.

    Raises:
        OrthoLoraError: not a run, or a part of it cannot be read.
    """
    run = run_at(run_dir)
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
        "probe": run.info.probe.where if run.info.probe else None,
        "tasks": run.info.task_names,
        "left_out": {task.name: task.left_out for task in run.info.tasks if task.left_out},
        "metrics": [
            {
                "task": task.name,
                "metric": task.metrics[0],
                "value": final.get(task.name),
                "majority": task.majority.get(_SPLIT, {}).get(task.metrics[0]),
            }
            for task in run.info.tasks
            if task.metrics  # a loop of somebody's own evaluates nothing
        ],
        "pairs": [
            {key: None if pd.isna(value) else value for key, value in row.items()} for row in matrix.to_dict("records")
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


def _opened(run_dir: Path) -> tuple[Path, Identity]:
    run = run_at(run_dir)
    if run.info is None:
        raise OrthoLoraError(run.problem)
    return run.path, run.info


def _runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Different runs that can be read."""
    opened = [run_at(run_dir) for run_dir in run_dirs]
    runs = list({run.path: run for run in opened}.values())
    for run in runs:
        if run.info is None:
            raise OrthoLoraError(run.problem or f"{run.path}: cannot be read as a run.")
        if run.run_id in [other.run_id for other in runs if other is not run]:
            raise OrthoLoraError(
                f"{run.run_id!r} is the name of two runs here: they could not be told apart; rename a directory."
            )
    return runs


def _list(as_json: bool) -> None:
    if as_json:
        listed = [{"name": name, "description": data.description, "takes": data.takes} for name, data in DATA.items()]
        typer.echo(json.dumps(listed, indent=1))
        return
    table = Table("name", "what it holds", "can be chosen by", box=SIMPLE_HEAD)
    for name, data in DATA.items():
        table.add_row(name, data.description, ", ".join(data.takes) or "–")
    Console().print(table)


def _print(document: dict[str, Any]) -> None:
    console = Console()
    done = f"{document['step']} of {document['total']}"
    progress = f"probe {document['probe']}, batch {done}" if document["probe"] else f"step {done}"
    told = f": {document['state']}, {progress}, {document['method']}, seed {document['seed']}"
    console.print(Text.assemble((plain(document["run"]), "bold"), plain(told)))
    if document["metrics"] and not document["probe"]:
        console.print(_metrics(document["metrics"]))
    for task, rows in document["left_out"].items():
        console.print(Text(plain(f"Rows left out of {task}: {rows}.")))
    for branch in sorted({row["branch"] for row in document["pairs"]}):
        console.print(_pairs([row for row in document["pairs"] if row["branch"] == branch], branch))
    console.print(Text(plain(document["sentence"])))
    console.print("negative: share of batch cosines; half by chance. after: mean batch cosine after the rule.")


def _metrics(rows: list[dict[str, Any]]) -> Table:
    metrics = Table("task", "metric", box=SIMPLE_HEAD, title="Final validation metrics", title_justify="left")
    for heading in ("value", "majority"):
        metrics.add_column(heading, justify="right")
    for row in rows:
        metrics.add_row(
            Text(plain(row["task"])),
            Text(plain(row["metric"])),
            number(row["value"], ".3f"),
            number(row["majority"], ".3f"),
        )
    return metrics


def _pairs(rows: list[dict[str, Any]], branch: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"Branch {branch}", title_justify="left")
    table.add_column("tasks", overflow="fold")
    table.add_column("verdict", min_width=17)
    for heading in ("cosine", "95% interval", "batch\ncosine", "negative", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(plain(f"{row['task_i']} – {row['task_j']}")),
            row["verdict"],
            number(row["cosine"], "+.2f"),
            interval(row["cosine_low"], row["cosine_high"]),
            number(row["cos_before"], "+.2f"),
            number(row["rate_before"], ".0%"),
            number(row["cos_after"], "+.2f"),
        )
    return table


if __name__ == "__main__":
    app()
