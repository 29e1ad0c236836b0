"""`python -m app`: the dashboard, from any folder, installed or not; takes the options of `streamlit run`, and two.

--demo       train the demo run meanwhile, where there is no run yet; it goes on when the dashboard is closed
--read-only  for a public host: nothing is launched or written, and no path of it is shown (`app.shared.places`)
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ortho_lora.errors import OrthoLoraError, require, run_command

DEMO, READ_ONLY = "--demo", "--read-only"


def serve(options: Sequence[str] = ()) -> None:
    """Serve the pages as the settings beside them say, on this machine alone.

    Raises:
        OrthoLoraError: both of our own options are given.
    """
    require("app", "streamlit")
    require("analysis", "duckdb", "plotly", "jinja2")
    from streamlit.web import cli

    others = [option for option in options if option not in (DEMO, READ_ONLY)]
    if READ_ONLY in options:
        if DEMO in options:
            raise OrthoLoraError(f"{DEMO} trains, and {READ_ONLY} forbids it: expected one of them.")
        from app.shared.places import READ_ONLY_VARIABLE

        os.environ[READ_ONLY_VARIABLE] = "1"
        others += ["--server.maxUploadSize", "0", "--client.showErrorDetails", "none"]  # which name files
    if DEMO in options:
        _train_demo()
    cli.main(["run", str(Path(__file__).with_name("main.py")), *others], prog_name="streamlit")


def _train_demo() -> None:
    """Have the demo run trained in a process of its own, as by the Launch page; not where there is a run already."""
    from analysis.library.runs import list_runs
    from app.launching import launcher
    from app.launching.presets import FIRST, PRESETS
    from ortho_lora.record.schema import default_runs_dir
    from ortho_lora.training.config import Config

    runs_dir = default_runs_dir()
    try:
        if list_runs(runs_dir) or any(launch.alive for launch in launcher.launches(runs_dir)):
            return
        launcher.start(Config.model_validate(PRESETS[FIRST].settings), runs_dir, "demo")
    except OrthoLoraError as error:
        print(f"The demo run is not trained: {error}", file=sys.stderr)
    else:
        print("The demo run trains meanwhile, and goes on when you close the dashboard: stop it on the page Launch.")


def app(options: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS OF streamlit run]")] = None) -> None:
    """Open the dashboard, on this machine alone; --demo trains the demo run meanwhile, --read-only is for a public
    host. Takes the options of `streamlit run` too, as --server.port 9000.
    """
    serve(options or [])


def join(joint: typer.Typer) -> None:
    """Add this command to `ortho-lora`."""
    joint.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})(app)


def main() -> None:
    """Serve, with the options that were given."""
    run_command(lambda: serve(sys.argv[1:]))


if __name__ == "__main__":
    main()
