"""Starts training as processes of their own, stops them, and says what became of them.

Each process is the leader of a session, waits for its turn by itself (`ortho_lora.launching.queue`), and writes what it
prints to a file. What is known of it is read from disk and from the system, so that a reload and a
restart change nothing.

    <runs_dir>/.launch/<run_id>.yaml   the configuration
    <runs_dir>/.launch/<run_id>.log    what the process printed
    <runs_dir>/.launch/<run_id>.json   its ticket
"""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

import ortho_lora.launching.queue as queue
from analysis.library.runs import Run, open_run
from app.shared import places
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.processes import environment
from ortho_lora.launching.queue import Ticket
from ortho_lora.record.files import open_regular, why
from ortho_lora.record.origin import Origin, find
from ortho_lora.record.schema import ACTIVE_STATES, CHECKPOINT, check_place, check_run_id, read_run, read_status
from ortho_lora.training.config import Config, load_config

HALF_WIDTH, MOST_BATCHES = 0.15, 256
"""Of the pairs' intervals that a probe is to reach, and of every task that it takes at most."""

ENDING_SECONDS = 20.0
"""How long a process may take to go, once its run has ended."""

_children: list[subprocess.Popen[bytes]] = []  # kept so that each is reaped when it has ended; never asked anything


@dataclass(frozen=True)
class Launch:
    """A process that has not begun to record: it waits, loads, or did not get that far.

    state: `queued`; `starting`; `stopping`; `failed`, it ended by itself; `lost`, it ended before its turn had come.
    """

    run_id: str
    state: Literal["queued", "starting", "stopping", "failed", "lost"]
    place: int | None  # in the queue, 1 for the next one; None: not queued
    resumes: bool  # a run that is there
    output: str  # the last lines that it printed
    host: str | None = None  # where it is, if that is another host: the state is what it wrote last

    @property
    def alive(self) -> bool:
        return self.state in ("queued", "starting", "stopping")


def start(config: Config, runs_dir: Path, run_id: str) -> int:
    """Have a run trained when its turn comes, and return the process id.

    Raises:
        OrthoLoraError: the name is not allowed or taken, or the runs directory cannot be written.
    """
    if (runs_dir / check_run_id(run_id)).exists():
        raise OrthoLoraError(f"run {run_id!r} exists in {runs_dir}: choose another name.")
    path = _settings_path(runs_dir, run_id)
    options = ["--config", str(path.resolve()), "--runs-dir", str(runs_dir.resolve()), "--name", run_id]
    return _start(["train", *options], runs_dir, run_id, {path: as_yaml(config)})


def resume(run_dir: Path) -> int:
    """Have an interrupted run gone on with when its turn comes, and return the process id.

    Raises:
        OrthoLoraError: it cannot be read, still trains, has finished or has no checkpoint.
    """
    run = open_run(run_dir.parent, run_dir.name)
    if not can_resume(run):
        raise OrthoLoraError(
            f"run {run.run_id!r} is {run.state}: only a run that was stopped, failed or lost, and has a checkpoint, can"
            " be gone on with."
        )
    _let_end(run_dir.parent, run.run_id)
    return _start(["resume", str(run_dir.resolve())], run_dir.parent, run.run_id, {})


def can_resume(run: Run) -> bool:
    """Whether the run was interrupted, and has a checkpoint to go on from."""
    return (
        run.state in ("stopped", "failed", "lost")
        and not places.fixed(run)
        and run.info is not None
        and run.info.probe is None
        and os.path.isfile(run.path / CHECKPOINT)
    )


def probe(run_dir: Path) -> str:
    """Have a run measured at its last checkpoint when the turn comes, and return the name of the probe.

    Raises:
        OrthoLoraError: it cannot be read or probed, or the runs directory cannot be written.
    """
    return _measure(run_dir, "probe", ["--half-width", str(HALF_WIDTH), "--batches", str(MOST_BATCHES)])


def look_ahead(run_dir: Path) -> str:
    """Have real steps taken from a run's last checkpoint, with and without each task, when the turn comes.

    Returns the name of the lookahead; raises as `probe`.
    """
    return _measure(run_dir, "lookahead", [])


def _measure(run_dir: Path, command: str, options: list[str]) -> str:
    run = open_run(run_dir.parent, run_dir.name)
    if not can_probe(run):
        raise OrthoLoraError(
            f"run {run.run_id!r}: only a run that has a checkpoint, and whose tasks share one adapter, can be measured"
            " there."
        )
    assert run.info is not None
    runs_dir = run_dir.parent
    taken = {*queue.tickets(runs_dir), *os.listdir(runs_dir)}
    name = next(name for number in count(1) if (name := f"{_stem(run.run_id)}-{command}-{number}") not in taken)
    where = ["--runs-dir", str(runs_dir.resolve()), "--name", name]
    settings = {_settings_path(runs_dir, name): as_yaml(load_config(overrides=run.info.config))}
    _start([command, str(run_dir.resolve()), *options, *where], runs_dir, name, settings)
    return name


def can_probe(run: Run) -> bool:
    """Whether the run has a checkpoint at which gradients of its tasks meet."""
    return (
        not places.fixed(run)
        and run.info is not None
        and run.info.probe is None
        and run.info.method != "single"
        and run.info.groups is None
        and len(run.info.tasks) > 1
        and os.path.isfile(run.path / CHECKPOINT)
    )


def try_advice(run_dir: Path) -> str:
    """Have a study try what the snapshots of a run advise, when its turn comes, and return the name of the study.

    One that is there is gone on with. It counts as one of those that train at once, whatever it trains.

    Raises:
        OrthoLoraError: the run cannot be read, the study waits or trains already, or the runs directory cannot be
            written.
    """
    run = open_run(run_dir.parent, run_dir.name)
    name, runs_dir = name_of_trial(run.run_id), places.workplace(run)
    options = ["--from-advice", str(run_dir.resolve()), "--runs-dir", str(runs_dir.resolve()), "--name", name]
    _start(["study", *options], runs_dir, name, {})
    return name


def name_of_trial(run_id: str) -> str:
    """Of the study that tries the advice of a run."""
    return f"{_stem(run_id)}-advice"


def measures(name: str, run_id: str) -> bool:
    """Whether a probe or lookahead of this name, launched from here, is of this run."""
    return any(name.rpartition(f"-{command}-")[0] == _stem(run_id) for command in ("probe", "lookahead"))


def _stem(run_id: str) -> str:
    """A name of which new ones can be made: a run that was copied may have any."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-")[:80] or "run"


def stop(runs_dir: Path, run_id: str) -> bool:
    """Ask the process that trains a run, or waits to, to end after its step; False where there is none.

    Raises:
        OrthoLoraError: it trains on another host, or belongs to another user.
    """
    ticket, status = queue.read_ticket(runs_dir, run_id), read_status(runs_dir / check_place(run_id))
    if (ticket is None or not ticket.alive) and status is not None and status.state in ACTIVE_STATES:
        # Not launched from here: it gets a ticket now, so that everyone sees that it was asked.
        ticket = Ticket(**status.model_dump(include=set(Origin.model_fields)), started=True)
    if ticket is None or not ticket.alive:
        return False
    process = find(ticket)
    if process is None and ticket.started:
        raise OrthoLoraError(f"run {run_id!r} trains on host {ticket.elsewhere}: stop it there.")
    with queue.lock(runs_dir):
        if (now := queue.read_ticket(runs_dir, run_id)) and now.same_process(ticket):
            ticket = now
        queue.write_ticket(runs_dir, run_id, ticket.model_copy(update={"stop_asked": True}))
        try:
            if process is not None:  # else it waits on another host, and looks at its ticket
                process.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            raise OrthoLoraError(f"run {run_id!r}: its process is of another user, who alone can stop it.") from None
    return True


def stop_asked(run: Run) -> bool:
    """Whether the process that trains the run was asked to stop, and has not ended."""
    ticket = queue.read_ticket(run.path.parent, run.run_id)
    return ticket is not None and ticket.stop_asked and ticket.alive


def launches(runs_dir: Path) -> list[Launch]:
    """What was launched and has not begun to record, in the order of the queue; not what was stopped before that."""
    _reap()
    places = {run_id: place for place, run_id in enumerate(queue.waiting(runs_dir), 1)}
    return [
        Launch(
            run_id,
            state,
            places.get(run_id),
            os.path.lexists(runs_dir / run_id),
            tail(_output_path(runs_dir, run_id), 12),
            ticket.elsewhere,
        )
        for run_id, ticket in queue.tickets(runs_dir).items()
        if not ticket.writes(runs_dir / run_id) and (state := _state(ticket))
    ]


def _state(ticket: Ticket) -> Literal["queued", "starting", "stopping", "failed", "lost"] | None:
    if ticket.alive:
        return "stopping" if ticket.stop_asked else "starting" if ticket.started else "queued"
    if ticket.stop_asked:
        return None
    return "failed" if ticket.started else "lost"


def dismiss(runs_dir: Path, run_id: str) -> None:
    """Forget a launch that has ended, or is on another host: one that waits there comes back."""
    with queue.lock(runs_dir):
        if (ticket := queue.read_ticket(runs_dir, run_id)) and not find(ticket):
            queue.discard_ticket(runs_dir, run_id)


def settings(runs_dir: Path, run_id: str) -> dict[str, Any]:
    """The configuration of a run: of its record, or where there is none yet, what it was launched with.

    Raises:
        OrthoLoraError: there is neither, or it cannot be read.
    """
    if os.path.lexists(runs_dir / check_place(run_id)):
        return read_run(runs_dir / run_id).config
    return load_config(_settings_path(runs_dir, run_id)).model_dump(mode="json")


def as_yaml(config: Config) -> str:
    """A configuration as `--config` takes it."""
    # With what is null: for some settings that is not the default.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file; empty where there is none that can be read."""
    try:
        with open_regular(path) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - 200 * lines, 0))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _start(arguments: list[str], runs_dir: Path, run_id: str, files: dict[Path, str]) -> int:
    """Start `python -m ortho_lora` with these arguments, and give it a ticket."""
    if places.read_only():
        raise OrthoLoraError("this dashboard only shows runs: nothing is launched from it.")
    with queue.lock(runs_dir):
        _forget_ended(runs_dir)
        if (former := queue.read_ticket(runs_dir, run_id)) and former.alive:
            raise OrthoLoraError(f"run {run_id!r} waits or starts already: choose another name, or stop it first.")
        try:
            for path, text in files.items():
                path.write_text(text, encoding="utf-8")
            output = _output_path(runs_dir, run_id).open("wb")
        except OSError as error:
            raise OrthoLoraError(
                f"{queue.folder(runs_dir)}: cannot be written ({why(error)}): choose another runs directory."
            ) from error
        with output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ortho_lora", *arguments, "--queue"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives the dashboard, and Ctrl-C there does not reach it
                env=environment(),
            )
        # Before it can take its turn, for which it needs the lock.
        queue.write_ticket(runs_dir, run_id, Ticket.of(psutil.Process(process.pid)))
    _reap()
    _children.append(process)
    return process.pid


def _let_end(runs_dir: Path, run_id: str) -> None:
    """Wait for a process that has said how its run ended, and is about to go."""
    deadline = time.monotonic() + ENDING_SECONDS
    while (ticket := queue.read_ticket(runs_dir, run_id)) and ticket.alive and time.monotonic() < deadline:
        if not ticket.writes(runs_dir / run_id):
            return  # it is to go on with the run itself
        time.sleep(0.1)


def _forget_ended(runs_dir: Path) -> None:
    """Discard the tickets that say nothing that the record does not."""
    for run_id, ticket in queue.tickets(runs_dir).items():
        if not ticket.alive and (ticket.stop_asked or ticket.writes(runs_dir / run_id)):
            queue.discard_ticket(runs_dir, run_id)


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _settings_path(runs_dir: Path, run_id: str) -> Path:
    return queue.folder(runs_dir) / f"{run_id}.yaml"


def _output_path(runs_dir: Path, run_id: str) -> Path:
    return queue.folder(runs_dir) / f"{run_id}.log"
