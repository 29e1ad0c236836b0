"""Runs that wait for each other: so many of a runs directory train at once on a host, in the order in which they came.

A study waits like a run, as a whole. Nobody schedules. Each waiting run is a process that sees for itself whether its
turn has come, so a queue outlives the dashboard, and whatever ends a process gives its place to the next. On a disk
that hosts share each host has a queue of its own, and one name is trained by one of them. Importable without torch.

    <runs_dir>/.launch/<run_id>.json   a ticket: the process that is to train the run, and whether its turn has come
    <runs_dir>/.launch/limit           how many train at once; 1 where there is none
    <runs_dir>/.launch/lock            held while a ticket is written
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import ConfigDict, ValidationError

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import is_text, read_bytes, replace_text, why
from ortho_lora.record.origin import Origin
from ortho_lora.record.schema import check_place, read_status
from ortho_lora.record.study import is_study

LOOK_SECONDS = 0.5
"""How often a waiting run looks whether its turn has come."""


class Ticket(Origin):
    """A process that trains a run, or waits to."""

    model_config = ConfigDict(frozen=True)

    number: int = 0  # in the order in which they came; no clock tells that
    started: bool = False  # its turn has come
    stop_asked: bool = False

    @property
    def alive(self) -> bool:
        """Whether it is not known to have ended."""
        return self.process_life != "gone"

    @property
    def elsewhere(self) -> str | None:
        """Name of its host, where that is another one."""
        return None if self.visible or self.host is None else self.host.name

    def writes(self, directory: Path) -> bool:
        """Whether it is this process that the run's status speaks of, or a study stands there."""
        status = read_status(directory)
        return (status is not None and status.same_process(self)) or is_study(directory)


def folder(runs_dir: Path) -> Path:
    """Where tickets lie."""
    return runs_dir / ".launch"


@contextmanager
def lock(runs_dir: Path) -> Iterator[None]:
    """To be held while a ticket is written; makes the folder.

    Raises:
        OrthoLoraError: the runs directory cannot be written.
    """
    held = FileLock(folder(runs_dir) / "lock")
    try:
        folder(runs_dir).mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as error:
        raise OrthoLoraError(
            f"{folder(runs_dir)}: cannot be made or written ({why(error)}): choose another runs directory."
        ) from error
    try:
        yield
    finally:
        held.release()


def tickets(runs_dir: Path) -> dict[str, Ticket]:
    """All tickets by the name of the run, in the order of the queue; also of processes that have ended."""
    found = {name: read_ticket(runs_dir, name) for name in _names(runs_dir)}
    known = [(name, ticket) for name, ticket in found.items() if ticket]
    return dict(sorted(known, key=lambda one: (one[1].number, one[1].process_start_time, one[0])))


def damaged(runs_dir: Path) -> list[str]:
    """Files that should be tickets and are none."""
    found = (name for name in _names(runs_dir) if not read_ticket(runs_dir, name))
    return [_path(runs_dir, name).name for name in found if os.path.lexists(_path(runs_dir, name))]


def _names(runs_dir: Path) -> list[str]:
    try:
        files = sorted(os.listdir(folder(runs_dir)))
    except OSError:
        return []
    return [name.removesuffix(".json") for name in files if name.endswith(".json") and name[0] != "." and is_text(name)]


def read_ticket(runs_dir: Path, run_id: str) -> Ticket | None:
    """The ticket of a run; None where there is none or it is not one."""
    try:
        return Ticket.model_validate_json(read_bytes(_path(runs_dir, run_id)))
    except (OSError, ValidationError):
        return None


def write_ticket(runs_dir: Path, run_id: str, ticket: Ticket) -> None:
    """Replace the ticket of a run; hold `lock`. One without a number gets the next.

    Raises:
        OrthoLoraError: it cannot be written.
    """
    if not ticket.number:
        last = max((other.number for other in tickets(runs_dir).values()), default=0)
        ticket = ticket.model_copy(update={"number": last + 1})
    _write(_path(runs_dir, run_id), ticket.model_dump_json())


def discard_ticket(runs_dir: Path, run_id: str) -> None:
    _path(runs_dir, run_id).unlink(missing_ok=True)


def waiting(runs_dir: Path) -> list[str]:
    """The runs whose turn has not come on this host, the next one first."""
    return [name for name, ticket in _here(runs_dir).items() if not ticket.started]


def _here(runs_dir: Path) -> dict[str, Ticket]:
    """The tickets of processes that live on this host."""
    return {name: ticket for name, ticket in tickets(runs_dir).items() if ticket.visible and ticket.alive}


def read_limit(runs_dir: Path) -> int:
    """How many runs train at once."""
    try:
        return max(int(read_bytes(folder(runs_dir) / "limit")), 1)
    except (OSError, ValueError):
        return 1


def write_limit(runs_dir: Path, limit: int) -> None:
    """Have so many runs train at once; those that train go on."""
    with lock(runs_dir):
        _write(folder(runs_dir) / "limit", str(limit))


def wait_for_turn(runs_dir: Path, run_id: str, say: Callable[[int], None] = lambda place: None) -> None:
    """Return when this process may train the run.

    Args:
        runs_dir: directory of the runs.
        run_id: of the run.
        say: called with the place in the queue, 1 for the next one, whenever it changes.

    Raises:
        OrthoLoraError: another process is to train a run of this name; or it was taken out of the queue.
    """
    mine = Ticket.of(psutil.Process())
    said = None
    while True:
        with lock(runs_dir):
            found = read_ticket(runs_dir, run_id)
            if found is None or not found.same_process(mine):
                if found is not None and found.alive:
                    where = f" on host {found.elsewhere}" if found.elsewhere else ""
                    raise OrthoLoraError(f"run {run_id!r} waits or trains already{where}: choose another --name.")
                write_ticket(runs_dir, run_id, mine)
                found = read_ticket(runs_dir, run_id) or mine
            if found.stop_asked:  # from another host, whose signals do not reach this one
                raise OrthoLoraError(f"run {run_id!r}: was taken out of the queue.")
            others = {name: ticket for name, ticket in _here(runs_dir).items() if name != run_id}
            training = sum(ticket.started for ticket in others.values())
            ahead = sum(not ticket.started and ticket.number < found.number for ticket in others.values())
            if training + ahead < read_limit(runs_dir):
                write_ticket(runs_dir, run_id, found.model_copy(update={"started": True}))
                return
        if ahead + 1 != said:
            said = ahead + 1
            say(said)
        time.sleep(LOOK_SECONDS)


def say_place(place: int) -> None:
    """For who waits in a terminal."""
    print(f"waits for its turn, at place {place} of the queue", file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be written ({why(error)}): move away what stands there.") from error


def _path(runs_dir: Path, run_id: str) -> Path:
    return folder(runs_dir) / f"{check_place(run_id)}.json"
