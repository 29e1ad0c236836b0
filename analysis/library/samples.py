"""The records that come with this package (`docs/samples.py` makes them): listed after one's own, written by nobody."""

import os
from collections.abc import Iterable
from pathlib import Path

from analysis.library.runs import Run, list_runs

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
"""A runs directory: the demo's run, those of the lesson, and a study."""

DEMO = "sample-demo"
"""Name of the demo's run there."""


def samples_beside(own: Iterable[Run]) -> list[Run]:
    """The shipped runs, newest first, without those whose name a run of the user's own has."""
    names = {run.run_id for run in own}
    return [run for run in list_runs(SAMPLES) if run.run_id not in names]


def is_sample(path: Path) -> bool:
    """Whether a run or study is one of them, so that nothing may write there."""
    return Path(os.path.abspath(path)).is_relative_to(SAMPLES)
