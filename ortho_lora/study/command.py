"""`python -m ortho_lora study`."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ortho_lora.errors import INTERRUPTED, OrthoLoraError
from ortho_lora.launching.life import interrupted
from ortho_lora.launching.queue import say_place, wait_for_turn
from ortho_lora.record.schema import RUNS_DIR_VARIABLE, check_run_id, default_runs_dir
from ortho_lora.study import plan as planning
from ortho_lora.study.executors import Local, threads_of
from ortho_lora.study.file import PRESETS, StudyFile, find_file, read_file, read_text, text_of
from ortho_lora.study.folder import Folder
from ortho_lora.study.progress import progress
from ortho_lora.study.run import Order, run
from ortho_lora.study.schedule import Ending, Means

Queue = Annotated[
    bool, typer.Option("--queue", help="Wait while as many runs train as the Launch page of the dashboard allows; 1.")
]


def study(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE|PRESET", help="YAML file, or the name of a preset below.")
    ] = None,
    from_advice: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="In place of a file: try what the snapshots of a run advise (`ortho-lora transfer RUN`), groups and"
            " weights, against joint, single and random groups. The file is written into the study's directory.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once, which share the cores; 1, or on a cluster as many as fit.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on the Ray cluster there; `local`: one made here.")
    ] = None,
    runs_dir: Annotated[
        Path | None,
        typer.Option(help=f"Where studies are kept; default beside RUN, else ${RUNS_DIR_VARIABLE}, or runs."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study's directory; default that of the file, or RUN-advice.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the runs again that failed.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the runs, and train none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    queue: Queue = False,
) -> None:
    """Compare methods fairly: train every method of a file with every seed under every condition, each with settings
    chosen on data of their own. The same command goes on with a study that was interrupted, and adds to one that is
    done.
    """
    source = _source(file, from_advice, runs_dir, name)
    asked, given = read_text(source.text, source.path)
    whole = planning.expected(asked)  # refuses what cannot be trained, before anything is
    if as_json and not plan:
        raise OrthoLoraError("--json: expected with --plan; what a study found, `python -m analysis study` prints.")
    if plan:
        document = _plan(asked, whole)
        if from_advice is not None and not as_json:
            print(source.text)
        if as_json:
            print(json.dumps(document, indent=1))
        else:
            _print_plan(document, asked.has_choice)
        return
    if queue:
        wait_for_turn(source.runs_dir, check_run_id(source.name), say_place)
    for warning in asked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in source.words:
        print(line, file=sys.stderr)
    folder = Folder.make(source.runs_dir, source.name)
    order = Order(asked, given, source.text, sys.argv)
    means = _means(ray, workers, retry_failed)
    with progress() as shown:
        endings = run(order, folder, means, shown)
    if asked.advice is not None:
        print(f"what came of the advice: ortho-lora results {shlex.quote(str(folder.path))}", file=sys.stderr)
    _conclude(folder, endings)


@dataclass(frozen=True)
class _Source:
    """What a study is made from, and where it goes."""

    path: Path  # of the file, for errors
    text: str
    runs_dir: Path
    name: str
    words: tuple[str, ...] = ()  # to say before it begins


def _source(file: str | None, run: Path | None, runs_dir: Path | None, name: str | None) -> _Source:
    if file is not None and run is None:
        path = find_file(file)
        return _Source(path, text_of(path), runs_dir or default_runs_dir(), name or path.stem)
    if run is None or file is not None:
        raise OrthoLoraError("study: expected a FILE or PRESET, or --from-advice RUN in its place.")
    run = Path(os.path.abspath(run))  # by its own name, also where it is a link
    runs_dir, name = runs_dir or run.parent, check_run_id(name or f"{run.name}-advice")
    path = Folder(runs_dir / name).file
    if path.is_file():
        return _Source(path, text_of(path), runs_dir, name, (f"{path}: goes on with what stands there",))
    from ortho_lora.study.advice import text_from_advice, words_of  # few studies need scipy

    text = text_from_advice(run)
    return _Source(path, text, runs_dir, name, (*words_of(text), f"written to {path}"))


def _means(ray: str | None, workers: int | None, retry_failed: bool) -> Means:
    """What runs are trained with: this machine, or a cluster."""
    if ray is None:
        workers = workers or 1
        return Means(Local(), workers, threads_of(workers), retry_failed)
    from ortho_lora.study.cluster import Cluster

    cluster = Cluster(ray)
    return Means(cluster, workers or max(cluster.cpus, 1), 1, retry_failed)


def _plan(file: StudyFile, whole: planning.Plan) -> dict[str, Any]:
    """Each run with what it is for, then what each method may spend."""
    methods = []
    for method in file.methods:
        names = {use.run_id for use in whole.uses if use.cell.method == method}
        work = sum(whole.configs[name].steps for name in names)
        methods.append(
            {"method": method, "candidates": len(file.candidates(method)), "runs": len(names), "steps": work}
        )
    return {
        "runs": [
            {
                "run": name,
                "for": list(
                    dict.fromkeys(
                        planning.describe(use.cell, use.candidate) for use in whole.uses if use.run_id == name
                    )
                ),
            }
            for name in whole.configs
        ],
        "methods": methods,
        "warnings": list(file.warnings),
    }


def _print_plan(document: Mapping[str, Any], has_choice: bool) -> None:
    for one in document["runs"]:
        print(f"{one['run']}: {'; '.join(one['for'])}")
    print(f"\n{len(document['runs'])} runs")
    if has_choice:
        print("after tuning, those of the first candidates are trained with the candidates that were chosen")
    for of in document["methods"]:
        print(f"{of['method']}: candidates {of['candidates']}, runs {of['runs']}, steps {of['steps']}")
    for warning in document["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def _conclude(folder: Folder, endings: Mapping[str, Ending]) -> None:
    """Say where the study is, and what did not finish; then the exit status is 1, or 130 after Ctrl-C."""
    print(folder.path)
    unfinished = {name: ending for name, ending in endings.items() if ending.state != "finished"}
    if not unfinished:
        return
    failed = [name for name, ending in unfinished.items() if ending.state == "failed"]
    for name, ending in unfinished.items():
        if ending.sentence:  # else it was not begun
            print(f"{name} {ending.state}: {ending.sentence}", file=sys.stderr)
    print(
        f"{len(endings) - len(unfinished)} of {len(endings)} runs finished"
        + (f", {len(failed)} failed (--retry-failed tries them again)" if failed else "")
        + (": the same command goes on" if len(failed) < len(unfinished) else ""),
        file=sys.stderr,
    )
    raise typer.Exit(INTERRUPTED if interrupted() else 1)


EPILOG = "Presets:\n\n" + "".join(f"{name}: {read_file(path)[0].title}\n\n" for name, path in PRESETS.items())
