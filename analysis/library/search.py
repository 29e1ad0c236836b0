"""The runs directory as a library: find runs in it, and delete them from it."""

import os
import shutil
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from analysis.library.runs import Run, open_run
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.admission import lock_run


def find_runs(
    runs: Iterable[Run],
    *,
    text: str = "",
    states: Collection[str] = (),
    methods: Collection[str] = (),
    tasks: Collection[str] = (),
    tags: Collection[str] = (),
    archived: bool = False,
) -> list[Run]:
    """The runs that fit all that is asked, in the order given; an empty choice asks nothing.

    Args:
        runs: where to look.
        text: words, each of which occurs in the run's name, title, method, tasks, tags or note, in any case of letters.
        states: of which it is in one.
        methods: of which it was trained with one.
        tasks: all of which it was trained on.
        tags: all of which it carries.
        archived: whether to find runs that are archived, or those that are not.
    """
    words = text.casefold().split()
    return [
        run
        for run in runs
        if run.notes.archived == archived
        and (not states or run.state in states)
        and (not methods or (run.info is not None and run.info.method in methods))
        and set(tasks) <= (set(run.info.task_names) if run.info else set())
        and set(tags) <= set(run.notes.tags)
        and (not words or all(word in _text(run) for word in words))
    ]


def delete_run(runs_dir: Path, run_id: str) -> None:
    """Delete a run for good. It leaves the list in one moment, whole, and its files are removed after that.

    Raises:
        OrthoLoraError: the name is not allowed, there is no such run, it is a link or not a run, a process is writing
            it, or its files cannot be removed.
    """
    run = open_run(runs_dir, run_id)
    if run.path.is_symlink():
        raise OrthoLoraError(f"{run.path}: a link to a directory elsewhere: remove the link yourself.")
    if not os.path.isfile(run.path / "run.json"):
        raise OrthoLoraError(f"{run.path}: has no run.json, so it may be something else: remove it yourself.")
    if run.elsewhere:
        raise OrthoLoraError(
            f"run {run_id!r} is {run.state} {run.elsewhere}: stop it there; where that host is gone, remove {run.path}"
            " yourself."
        )
    if run.active:
        raise OrthoLoraError(f"run {run_id!r} is {run.state}: stop it before you delete it.")
    trash = runs_dir / f".trash-{uuid.uuid4().hex}"
    lock = lock_run(run.path)
    try:
        run.path.rename(trash)
    except OSError as error:
        raise OrthoLoraError(
            f"{run.path}: cannot be deleted ({error.strerror}): ask its owner for the right to write."
        ) from error
    finally:
        lock.release()
    try:
        shutil.rmtree(trash)
    except OSError as error:
        raise OrthoLoraError(
            f"run {run_id!r} is deleted, but some of its files could not be removed ({error.strerror}): "
            f"remove {trash} yourself."
        ) from error


def disk_bytes(run: Path) -> int:
    """What a run's files take, in bytes, as far as they can be listed and are still there."""
    total = 0
    for directory, _, files in os.walk(run):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def _text(run: Run) -> str:
    parts = [run.run_id, run.notes.title, *run.notes.tags, run.notes.note]
    if run.info:
        parts += [run.info.method, *run.info.task_names, "probe" if run.info.probe else ""]
    return "\n".join(parts).casefold()
