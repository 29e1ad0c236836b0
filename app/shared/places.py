"""Where the pages look for runs and studies, and whether they may change anything there.

First the runs directory, then the records that come with this package (`analysis.library.samples`), by names that are
free. Two variables of the environment say otherwise:

    ORTHO_LORA_SAMPLES=off   without these records
    ORTHO_LORA_READ_ONLY=1   for a public host (`--read-only`): nothing is launched or written, no path of the host is
                             shown, and only the given runs are; where there are none, those that come along
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.library.runs import Run, Survey, list_runs
from analysis.library.runs import survey as survey_of
from analysis.library.samples import SAMPLES, is_sample, samples_beside
from analysis.study.results import find_studies
from ortho_lora.record.schema import default_runs_dir

SAMPLES_VARIABLE = "ORTHO_LORA_SAMPLES"
READ_ONLY_VARIABLE = "ORTHO_LORA_READ_ONLY"

_PATH = re.compile(r"(?<![\w.…/])(?!//)(?:/[^/\s:;,'\"`()<>|]+)+/([^/\s:;,'\"`()<>|]*)")


def read_only() -> bool:
    """Whether whoever looks may only look."""
    return os.environ.get(READ_ONLY_VARIABLE, "") not in ("", "0")


def samples_wanted() -> bool:
    """Whether the records that come with the package may be shown at all."""
    return os.environ.get(SAMPLES_VARIABLE) != "off"


def fixed(run: Run) -> bool:
    """Whether a run is to stay as it is: it came with the package, or whoever looks may only look."""
    return read_only() or is_sample(run.path)


def workplace(run: Run) -> Path:
    """Where what is made of a run goes: beside it, or of a shipped one among one's own."""
    return default_runs_dir() if is_sample(run.path) else run.path.parent


def survey() -> Survey:
    """All runs, those that come with the package last; raises as `analysis.library.runs.survey`."""
    found = survey_of(default_runs_dir())
    return replace(found, runs=(*found.runs, *(samples_beside(found.runs) if _with_samples() else ())))


def runs() -> list[Run]:
    """Those of `survey`."""
    return list(survey().runs)


def home(run_id: str) -> Path:
    """The directory in which the run of a name lies: the runs directory, unless only a shipped one has that name."""
    own = default_runs_dir()
    if os.path.lexists(own / run_id) or run_id not in _names() or not _with_samples():
        return own
    return SAMPLES


def studies() -> dict[str, Path]:
    """Studies by name, as of `find_studies`, those that come with the package last."""
    own = find_studies(default_runs_dir())
    return own | {name: path for name, path in _studies().items() if name not in own}


def _names() -> list[str]:
    return [run.run_id for run in list_runs(SAMPLES)]


def _studies() -> dict[str, Path]:
    return find_studies(SAMPLES) if _with_samples() else {}


def _with_samples() -> bool:
    """Whether the shipped records are listed."""
    if not samples_wanted():
        return False
    return not read_only() or not (list_runs(default_runs_dir()) or find_studies(default_runs_dir()))


def without_paths(text: str) -> str:
    """Where whoever looks may only look: a text with the last name alone of each path of this machine."""
    if not read_only():
        return text
    own = str(default_runs_dir().absolute())  # may have spaces, at which the name of a path is taken to end
    return _PATH.sub(r"…/\1", text.replace(own, "/…"))


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The same for the texts of a table."""
    texts = frame.select_dtypes(include=["object", "string"]).columns if read_only() else []
    hidden = {name: frame[name].map(lambda cell: without_paths(cell) if isinstance(cell, str) else cell)
              for name in texts}  # fmt: skip
    return frame.assign(**hidden) if hidden else frame
