"""Who may write a run, and which rows may enter its record: those of its training, step after step."""

import time
import warnings
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.record.manifest import read_manifest
from ortho_lora.record.schema import ACTIVE_STATES, RunInfo, check_run_id, read_status
from ortho_lora.record.tables import TABLES

WATCH_SECONDS = 60.0
"""How long a run that another host may be writing is watched for a sign of it, before it is taken over."""


def check_free(runs_dir: Path, run_id: str) -> str:
    """Return `run_id`; raise OrthoLoraError where the name is not allowed, or a run carries it already."""
    if (runs_dir / check_run_id(run_id)).exists():
        raise OrthoLoraError(f"run {run_id!r} exists in {runs_dir}: choose another --name, or delete it.")
    return run_id


def lock_run(run_dir: Path) -> FileLock:
    """Take the right to write a run; the system gives it back when the process ends, however it ends.

    Raises:
        OrthoLoraError: another process writes it, or the directory cannot be written.
    """
    lock = FileLock(run_dir / "lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OrthoLoraError(f"{run_dir}: another process is writing this run: wait for its end, or stop it.") from None
    except OSError as error:
        raise OrthoLoraError(
            f"{run_dir}: cannot be locked ({error.strerror}): choose a directory that you may write."
        ) from error
    if (host := _written_elsewhere(run_dir)) is not None:
        lock.release(force=True)
        raise OrthoLoraError(
            f"{run_dir}: a process of host {host} is writing this run: wait for its end, or stop it there."
        )
    return lock


def _written_elsewhere(run_dir: Path) -> str | None:
    """The host of a process that writes a run though its lock is free: not every shared disk tells hosts of locks."""
    former = read_status(run_dir)
    if former is None or former.state not in ACTIVE_STATES or former.same_kernel or former.process_life != "unknown":
        return None
    there = former.host.name if former.host else "another host"
    warnings.warn(
        f"{run_dir}: was last written on host {there}: watched for {WATCH_SECONDS:.0f} s, in case it still is.",
        OrthoLoraWarning,
        stacklevel=3,
    )
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:  # its signs are compared with each other: its clock may not be ours
        time.sleep(0.2)
        if (now := read_status(run_dir)) and now != former:
            return there if now.state in ACTIVE_STATES else None
    return None


def refuse_another(run_dir: Path, former: RunInfo, info: RunInfo) -> None:
    """Raise OrthoLoraError where `info` is not of the training that the record in `run_dir` is of."""
    facts = {
        "tasks": (_tasks(former), _tasks(info)),
        "method": (former.method, info.method),
        "rule and scope": (f"{former.rule} at {former.scope}", f"{info.rule} at {info.scope}"),
        "seed": (former.seed, info.seed),
        "settings": (former.config, info.config),
        "layers": (former.modules, info.modules),
    }
    for what, (was, now) in facts.items():
        if was != now:
            told = "" if what == "layers" else f" (there {was}, here {now})"
            raise OrthoLoraError(
                f"recorder: {run_dir} is the record of another training, whose {what} differ{told}: give this one a"
                " Recorder of its own."
            )


def _tasks(info: RunInfo) -> str:
    return ", ".join(f"{task.name} x {task.loss_weight:g}" for task in info.tasks)


class Places:
    """How far each table of a record has come."""

    def __init__(self, last: Mapping[str, int]) -> None:
        """From the last step in each table; -1: none."""
        self.last = dict(last)
        self._seen: dict[str, set[Hashable]] = {}  # by table, what was recorded of its last step

    @classmethod
    def of(cls, run_dir: Path) -> Self:
        """As they are on disk."""
        manifest = read_manifest(run_dir)
        return cls({table: max((part.last for part in manifest.of(table)), default=-1) for table in TABLES})

    def admit(self, run_dir: Path, table: str, first: int, last: int, of: Hashable = None) -> None:
        """Let rows of the steps `first` to `last` enter.

        Args:
            run_dir: of the record.
            table: that they are for.
            first: their first step.
            last: their last.
            of: what they are of, which a step holds once; None: it may hold more of the same.

        Raises:
            OrthoLoraError: the table has come further, or holds the same already.
        """
        known = self.last.get(table, -1)
        twice = of is not None and first == known and of in self._seen.get(table, {of})
        if first < known or twice:
            raise OrthoLoraError(
                f"recorder: step {first} given, and {run_dir} holds steps to {known} already: give another training a"
                " Recorder of its own; one that goes on continues the count (OrthoLoRA.load_state_dict)."
            )
        if last > known:
            self._seen[table] = set()
        self.last[table] = max(known, last)
        self._seen.setdefault(table, set()).add(of)
