"""Runs that wait for each other: so many of a runs directory train at once, in the order in which they came.

Nobody schedules. Each waiting run is a process that sees for itself whether its turn has come, so a queue outlives the
dashboard, and whatever ends a process gives its place to the next. Importable without torch.

    <runs_dir>/.launch/<run_id>.json   a ticket: the process that is to train the run, and whether its turn has come
    <runs_dir>/.launch/limit           how many train at once; 1 where there is none
    <runs_dir>/.launch/lock            held while a ticket is written
"""

import time
from collections.abc import Callable
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from ortho_lora.errors import OrthoLoraError
from ortho_lora.processes import find
from ortho_lora.schema import check_run_id, read_status, replace_text

LOOK_SECONDS = 0.5
"""How often a waiting run looks whether its turn has come."""


class Ticket(BaseModel):
    """A process that trains a run, or waits to."""

    model_config = ConfigDict(frozen=True)

    pid: int
    process_start_time: float  # seconds since the epoch; who started first comes first
    started: bool = False  # its turn has come
    stop_asked: bool = False

    @property
    def alive(self) -> bool:
        return find(self.pid, self.process_start_time) is not None

    def writes(self, run_dir: Path) -> bool:
        """Whether it is this process that the run's status speaks of."""
        status = read_status(run_dir)
        return (
            status is not None
            and status.pid == self.pid
            and abs(status.process_start_time - self.process_start_time) <= 2
        )

    @classmethod
    def of(cls, process: psutil.Process) -> "Ticket":
        return cls(pid=process.pid, process_start_time=process.create_time())


def folder(runs_dir: Path) -> Path:
    """Where tickets lie."""
    return runs_dir / ".launch"


def lock(runs_dir: Path) -> FileLock:
    """To be held while a ticket is written; makes the folder.

    Raises:
        OrthoLoraError: the runs directory cannot be written.
    """
    try:
        folder(runs_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrthoLoraError(
            f"{folder(runs_dir)}: cannot be made ({error.strerror}): choose another runs directory."
        ) from error
    return FileLock(folder(runs_dir) / "lock")


def tickets(runs_dir: Path) -> dict[str, Ticket]:
    """All tickets by the name of the run, in the order of the queue; also of processes that have ended."""
    found = {path.stem: read_ticket(runs_dir, path.stem) for path in folder(runs_dir).glob("*.json")}
    known = [(name, ticket) for name, ticket in found.items() if ticket]
    return dict(sorted(known, key=lambda one: (one[1].process_start_time, one[0])))


def read_ticket(runs_dir: Path, run_id: str) -> Ticket | None:
    """The ticket of a run; None where there is none or it is not one."""
    try:
        return Ticket.model_validate_json(_path(runs_dir, run_id).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def write_ticket(runs_dir: Path, run_id: str, ticket: Ticket) -> None:
    """Replace the ticket of a run; hold `lock`."""
    replace_text(_path(runs_dir, run_id), ticket.model_dump_json())


def discard_ticket(runs_dir: Path, run_id: str) -> None:
    _path(runs_dir, run_id).unlink(missing_ok=True)


def waiting(runs_dir: Path) -> list[str]:
    """The runs whose turn has not come, the next one first."""
    return [name for name, ticket in tickets(runs_dir).items() if not ticket.started and ticket.alive]


def read_limit(runs_dir: Path) -> int:
    """How many runs train at once."""
    try:
        return max(int((folder(runs_dir) / "limit").read_text(encoding="ascii")), 1)
    except (OSError, ValueError):
        return 1


def write_limit(runs_dir: Path, limit: int) -> None:
    """Have so many runs train at once; those that train go on."""
    with lock(runs_dir):
        replace_text(folder(runs_dir) / "limit", str(limit))


def wait_for_turn(runs_dir: Path, run_id: str, say: Callable[[int], None] = lambda place: None) -> None:
    """Return when this process may train the run.

    Args:
        runs_dir: directory of the runs.
        run_id: of the run.
        say: called with the place in the queue, 1 for the next one, whenever it changes.

    Raises:
        OrthoLoraError: another process is to train a run of this name.
    """
    mine = Ticket.of(psutil.Process())
    said = None
    while True:
        with lock(runs_dir):
            found = read_ticket(runs_dir, run_id)
            if found is None or found.pid != mine.pid:
                if found is not None and found.alive:
                    raise OrthoLoraError(f"run {run_id!r} waits or trains already: choose another --name.")
                write_ticket(runs_dir, run_id, mine)
                found = mine
            training = sum(ticket.started and ticket.alive for ticket in tickets(runs_dir).values())
            place = waiting(runs_dir).index(run_id) + 1
            if place + training <= read_limit(runs_dir):
                write_ticket(runs_dir, run_id, found.model_copy(update={"started": True}))
                return
        if place != said:
            say(place)
            said = place
        time.sleep(LOOK_SECONDS)


def _path(runs_dir: Path, run_id: str) -> Path:
    return folder(runs_dir) / f"{check_run_id(run_id)}.json"
