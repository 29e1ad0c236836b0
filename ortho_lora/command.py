"""`ortho-lora`: what `python -m ortho_lora`, `python -m analysis` and `python -m app` do, as one command.

Training knows nothing of looking: the metadata name, under `ortho_lora.commands`, functions that add commands to it.
None of them imports torch, plotly or streamlit before its command runs.
"""

from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from ortho_lora.errors import run_command

ADDED = "ortho_lora.commands"
"""Group of entry points; each is a function that takes a `typer.Typer`."""


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ortho-lora {version('ortho-lora')}")
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Train one LoRA adapter on several tasks, and see which of them fight over it."""


def joint() -> typer.Typer:
    """All commands of the packages that are installed."""
    from ortho_lora.__main__ import app

    command = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
    command.callback()(_options)
    command.registered_commands.extend(app.registered_commands)
    for entry in sorted(entry_points(group=ADDED), key=lambda entry: entry.name):
        entry.load()(command)
    return command


def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    run_command(lambda: joint()(prog_name="ortho-lora"))
