"""The runs of the guided lesson: real ones, tiny, under fixed names, trained one after another.

What is done is read from the runs directory, so a lesson that was left goes on where it stands. A run that ended early
is not touched: it is trained again under the next name, `lesson-dial-0-2`. Until then those shipped stand for them.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from analysis.library.runs import Run, open_run
from analysis.library.samples import SAMPLES
from app.launching import launcher
from app.shared import places
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import read_ticket
from ortho_lora.training.config import Config

SETTINGS = {
    "method": "joint",
    "steps": 40,
    "batch_size": 16,
    "max_length": 32,
    "dropout": 0.0,  # so that the twin sees exactly what its original sees
    "learning_rate": 2e-3,
    "eval_every": 40,
    "eval_examples": 256,
    "checkpoint_every": None,
}
DIAL = {rho: f"lesson-dial-{rho:g}" for rho in (0.0, 0.25, 0.5, 0.75, 1.0)}
OWN_HEAD = "lesson-own-head"
UNRELATED = "lesson-unrelated"
SNAPSHOT = {UNRELATED: {"snapshots": 1, "snapshot_batches": 64}}
"""Settings of a run beside `SETTINGS`: only there is a small cosine the question."""
TASKS = {name: f"movies,movies@{rho:g}" for rho, name in DIAL.items()} | {
    OWN_HEAD: "movies,movies@1+head",
    UNRELATED: "trec,movies",
}
"""Tasks of each run, in the order in which they are trained."""

_SECONDS = 45.0  # that a run takes, measured on two cores that had other work too
_LOADING = 10.0  # of these, before the run is on disk


def standing(runs_dir: Path) -> dict[str, Run]:
    """The run that stands for each name: the finished one, or else the latest attempt; without those never begun."""
    found = {}
    for name in TASKS:
        attempts = _attempts(runs_dir, name)
        finished = [run for run in attempts if run.state == "finished"]
        if attempts:
            found[name] = (finished or attempts)[-1]
    return found


def finished(runs_dir: Path) -> dict[str, Run]:
    """The finished run for each name: the reader's own, or else the one that comes with this program."""
    own = {name: run for name, run in standing(runs_dir).items() if run.state == "finished"}
    return (standing(SAMPLES) if places.samples_wanted() else {}) | own


def seconds_a_run(runs: Iterable[Run]) -> float:
    """That a run takes: as the finished ones took here, or as measured before, where none is."""
    took = [run.seconds for run in runs if run.state == "finished" and run.seconds is not None]
    return _LOADING + sum(took) / len(took) if took else _SECONDS


def config(name: str) -> Config:
    """The settings of a run."""
    return Config.model_validate({**SETTINGS, **SNAPSHOT.get(name, {}), "tasks": TASKS[name]})


def start_next(runs_dir: Path) -> str | None:
    """Start the first run that is not finished, and return its name; None where all are.

    Raises:
        OrthoLoraError: as `launcher.start`.
    """
    stands = standing(runs_dir)
    for name in TASKS:
        if name in stands and stands[name].state == "finished":
            continue
        run_id = _attempt(name, len(_attempts(runs_dir, name)) + 1)
        launcher.start(config(name), runs_dir, run_id)
        return run_id
    return None


def alive(runs_dir: Path, run_id: str) -> bool:
    """Whether the process of a run that was started lives: before the run is there, it waits or loads."""
    ticket = read_ticket(runs_dir, run_id)
    return ticket is not None and ticket.alive


def _attempts(runs_dir: Path, name: str) -> list[Run]:
    found: list[Run] = []
    for number in count(1):
        if not os.path.isdir(runs_dir / _attempt(name, number)):
            break
        with suppress(OrthoLoraError):  # deleted in between
            found.append(open_run(runs_dir, _attempt(name, number)))
    return found


def _attempt(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
