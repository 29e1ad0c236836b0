"""A report on runs: one HTML file that needs no other, and asks nobody for anything.

Names come from files of others. The template escapes every text; figures come as JSON that holds no tag; and the page's
own policy lets no script run but the two that are named in it by their hashes, and no request leave it.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.conflict.replay import NOTE
from analysis.diagnosis.diagnose import THEOREM
from analysis.diagnosis.sentences import HOW_TO_READ, sentences
from analysis.figures import standalone
from analysis.library.names import branch_cell
from analysis.library.runs import Run
from analysis.report.content import comparison_of, content_of
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import replace_text
from ortho_lora.record.judge import TOLD

__all__ = ["default_path", "render", "write_report"]

_MARK = '<meta name="generator" content="ortho-lora report">'
_MARK_WITHIN = 1000  # bytes from the beginning of the file
_HERE = Path(__file__).parent


def default_path(runs: Sequence[Run]) -> Path:
    """Where a report is written when nobody says where: in the current directory."""
    return Path(f"{runs[0].run_id}-report.html" if len(runs) == 1 else "runs-report.html")


def write_report(runs: Sequence[Run], path: Path, force: bool = False) -> None:
    """Write a report; a former one is replaced, any other file only with `force`.

    Args:
        runs: as of `open_run`, at least one, all of them readable.
        path: of the file.
        force: replace whatever is there.

    Raises:
        OrthoLoraError: the path is taken or cannot be written, or a record cannot be read.
    """
    if path.is_dir():
        raise OrthoLoraError(f"{path}: is a directory; expected the name of a file, as in {path / default_path(runs)}.")
    if path.exists() and not force and _MARK.encode() not in path.read_bytes()[:_MARK_WITHIN]:
        raise OrthoLoraError(f"{path}: exists and is no report; give another -o, or --force to replace it.")
    text = render(runs, datetime.now(UTC))
    try:
        replace_text(path, text)
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be written ({error.strerror}).") from error


def render(runs: Sequence[Run], now: datetime) -> str:
    """The report as HTML.

    Args:
        runs: as of `open_run`, at least one, all of them readable.
        now: time to write on it.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scripts = [standalone.script(), (_HERE / "page.js").read_text(encoding="utf-8")]
    return environment.get_template("page.html").render(
        title=f"{len(runs)} runs side by side" if len(runs) > 1 else runs[0].run_id,
        made=f"{now:%Y-%m-%d %H:%M} UTC",
        comparison=comparison_of(runs) if len(runs) > 1 else None,
        runs=[content_of(run, f"run{number}") for number, run in enumerate(runs, 1)],
        mark=_MARK,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=_policy(scripts),
        config=standalone.CONFIG,
        theorem=THEOREM,
        reading=HOW_TO_READ,
        note=NOTE,
        sentences=sentences,
        branch_cell=branch_cell,
        told=TOLD,
    )


def _policy(scripts: Sequence[str]) -> str:
    """What the browser is to allow the page: these scripts, styles, images made on the page, and nothing else."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
