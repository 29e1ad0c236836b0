"""`python -m app`: the dashboard, from any folder, installed or not; takes the options of `streamlit run`."""

import sys
from pathlib import Path

from streamlit.web import cli


def main() -> None:
    """Serve the pages as the settings beside them say, on this machine alone."""
    cli.main(["run", str(Path(__file__).with_name("main.py")), *sys.argv[1:]], prog_name="streamlit")


if __name__ == "__main__":
    main()
