"""`python -m app`: the dashboard, from any folder, installed or not; takes the options of `streamlit run`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ortho_lora.errors import require, run_command


def serve(options: Sequence[str] = ()) -> None:
    """Serve the pages as the settings beside them say, on this machine alone."""
    require("app", "streamlit")
    require("analysis", "duckdb", "plotly", "jinja2")
    from streamlit.web import cli

    cli.main(["run", str(Path(__file__).with_name("main.py")), *options], prog_name="streamlit")


def app(options: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS OF streamlit run]")] = None) -> None:
    """Open the dashboard, on this machine alone; with the options of `streamlit run`, as --server.port 9000."""
    serve(options or [])


def join(joint: typer.Typer) -> None:
    """Add this command to `ortho-lora`."""
    joint.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})(app)


def main() -> None:
    """Serve, with the options that were given."""
    run_command(lambda: serve(sys.argv[1:]))


if __name__ == "__main__":
    main()
