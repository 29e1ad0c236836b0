"""Look at runs from the terminal: `python -m analysis summary RUN_DIR`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from analysis.conflict.rules import RULES, SCOPES
from ortho_lora.errors import BAD_INPUT, OrthoLoraError, plain, run_command
from ortho_lora.record.layers import layer_of

if TYPE_CHECKING:
    from analysis.library.runs import Run


class _Commands(TyperGroup):
    """Ends a command with one sentence in place of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OrthoLoraError as error:
            typer.echo(f"error: {plain(str(error))}", err=True)
            raise typer.Exit(BAD_INPUT) from None


app = typer.Typer(
    cls=_Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False, help=__doc__
)

Branch = Literal["A", "B"]
Format = Literal["csv", "parquet"]

_RUN_HELP = "Directory of one run, as in runs/20260101T120000-ortho-lora."
_JSON_HELP = "Print one JSON document."


@app.command()
def summary(
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """State, final metrics beside the majority baseline, and a verdict on each pair of tasks."""
    from analysis.summary import print_summary, summarise

    document = summarise(run_dir)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    else:
        print_summary(document)


@app.command()
def diagnose(
    run_dirs: Annotated[list[Path], typer.Argument(help="Directories of runs.")],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """A verdict on each pair of tasks: conflict, aligned, no conflict worth the name, or not enough data."""
    from rich.console import Console

    from analysis.diagnosis.diagnose import diagnose
    from analysis.library.runs import identified
    from analysis.output.terminal import print_diagnosis

    found = [diagnose(identified(run_dir)[0].path) for run_dir in run_dirs]
    if as_json:
        typer.echo(json.dumps([one.document() for one in found], indent=1, allow_nan=False))
        return
    for one in found:
        print_diagnosis(Console(), one)


@app.command()
def replay(
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    rule: Annotated[str | None, typer.Option(help=f"One of {', '.join(RULES)}; default: a table.")] = None,
    scope: Annotated[str, typer.Option(help=f"One of {', '.join(SCOPES)}.")] = "block",
    branches: Annotated[str, typer.Option(help="both, A or B: the other takes the plain sum.")] = "both",
    order: Annotated[str, typer.Option(help="recorded, or mean: over all orders of the tasks.")] = "recorded",
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """What another rule or scope would have done in each recorded step of a run; one step ahead only."""
    from rich.console import Console

    from analysis.conflict import replay as replays
    from analysis.library.runs import identified
    from analysis.output.terminal import print_replays

    run, info = identified(run_dir)
    methods = replays.INTERESTING if rule is None else ((rule, scope, branches),)
    if rule is None and (scope, branches) != ("block", "both"):
        raise OrthoLoraError("--scope and --branches expect a --rule; without one every method of a table is shown.")
    found = [replays.replay(run.path, *method, order=order) for method in methods]
    if as_json:
        typer.echo(json.dumps(replays.document(run.path, found), indent=1, allow_nan=False))
    else:
        print_replays(Console(), info, found)


@app.command()
def transfer(
    run_dir: Annotated[Path, typer.Argument(help=_RUN_HELP)],
    mixture: Annotated[
        list[str] | None,
        typer.Option(
            help="TASK or TASK=WEIGHT, may be repeated: how each target would do in a mixture of these alone."
        ),
    ] = None,
    predicted: Annotated[
        Path | None, typer.Option(help="Of a lookahead: the run or probe with a snapshot where it begins, to compare.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """What one task does to another's validation loss, in nats: predicted by snapshots, or as a lookahead found it."""
    from rich.console import Console

    from analysis.library.runs import identified
    from analysis.output import transfer as output

    chosen = _mixture(mixture) if mixture else None
    run, info = identified(run_dir)
    if info.probe is not None and info.probe.steps:
        if chosen:
            raise OrthoLoraError(f"{run.run_id}: is a lookahead: --mixture asks what a snapshot predicts.")
        beside = None if predicted is None else identified(predicted)[0].path
        if as_json:
            typer.echo(json.dumps(output.lookahead_document(run.path, beside), indent=1, allow_nan=False))
        else:
            output.print_lookahead(Console(), run.path, beside)
        return
    if predicted is not None:
        raise OrthoLoraError(f"{run.run_id}: --predicted compares a lookahead, and this is none.")
    if as_json:
        typer.echo(json.dumps(output.document(run_dir, chosen), indent=1, allow_nan=False))
    else:
        output.print_transfer(Console(), run_dir, chosen)


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
    from analysis.report.page import default_path, write_report

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
    form: Annotated[Format | None, typer.Option("--format", help="Default: as the file is named, else csv.")] = None,
    pair: Annotated[tuple[str, str] | None, typer.Option(help="Two tasks: their pair only.")] = None,
    steps: Annotated[tuple[int, int] | None, typer.Option(help="First and last step.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="This layer only, as in 0 or encoder.0; may be repeated.")
    ] = None,
    module: Annotated[list[str] | None, typer.Option(help="This module only, as in query; may be repeated.")] = None,
    branch: Annotated[Branch | None, typer.Option(help="This branch only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the names with what they are, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON_HELP)] = False,
) -> None:
    """The data of any figure as CSV or Parquet; without --what those of all figures, into a directory."""
    if listing:
        from analysis.output.terminal import print_data

        print_data(as_json)
        return
    from analysis.conflict.queries import Selection
    from analysis.output import files
    from analysis.output.data import frame_of

    selection = Selection(
        steps=steps,
        layers=tuple(map(layer_of, layer)) if layer else None,
        modules=tuple(module) if module else None,
        branches=(branch,) if branch else None,
    )
    if not run_dirs:
        raise OrthoLoraError("export: no run given, expected at least one RUN_DIR; --list shows what there is.")
    runs = _runs(run_dirs)
    plan = files.planned([run.path for run in runs], what or [], output, form)
    if Path("-") in plan.paths.values():
        sys.stdout.write(files.csv_text(frame_of(next(iter(plan.paths)), plan.runs, selection, pair)))
        return
    written, left_out = files.export(plan, selection, pair, force)
    for problem in left_out:
        typer.echo(f"left out: {plain(problem)}", err=True)
    if as_json:
        typer.echo(json.dumps({"written": written, "left_out": left_out}, indent=1))
        return
    for one in written:
        typer.echo(f"wrote {plain(one['path'])} ({one['rows']:,} rows)")


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
    from rich.console import Console

    from analysis.study.drawing import write_figures
    from analysis.study.findings import find
    from analysis.study.printing import markdown, print_study

    found = find(directory)
    written = write_figures(found, figures) if figures else []
    if as_json:
        typer.echo(json.dumps(found.document(), indent=1, allow_nan=False))
    elif as_markdown:
        typer.echo(markdown(found), nl=False)
    else:
        print_study(Console(), found)
    for path in written:
        typer.echo(f"wrote {plain(str(path))}", err=True)


def _mixture(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for one in given:
        name, separator, weight = one.rpartition("=")
        try:
            found[name if separator else one] = float(weight) if separator else 1.0
        except ValueError:
            raise OrthoLoraError(f"--mixture: {one!r} given, expected TASK or TASK=WEIGHT, as in trec=0.5.") from None
    return found


def _runs(run_dirs: Sequence[Path]) -> "list[Run]":
    """Different runs that can be read."""
    from analysis.library.runs import identified

    opened = [identified(run_dir)[0] for run_dir in run_dirs]
    runs = list({run.path: run for run in opened}.values())
    for run in runs:
        if run.run_id in [other.run_id for other in runs if other is not run]:
            raise OrthoLoraError(
                f"{run.run_id!r} is the name of two runs here: they could not be told apart; rename a directory."
            )
    return runs


def join(joint: typer.Typer) -> None:
    """Add these commands to `ortho-lora`, whose `study` trains one."""
    for command in (summary, diagnose, transfer, replay, report, export):
        joint.command()(command)
    joint.command("results")(study)


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    run_command(lambda: app(prog_name="python -m analysis"))


if __name__ == "__main__":
    main()
