"""A study's directory, and what it says of each of its runs.

<runs_dir>/<name>/
  study.json  study.yaml   what was planned and chosen; the file
  <run_id>/                runs like any other
  .study/lock              held by the command that carries the study out
  .study/<run_id>.yaml     the configuration
  .study/<run_id>.log      what its processes printed
  .study/<run_id>.json     the last process: a ticket as of `ortho_lora.launching.queue`
  .study/<run_id>.failed   why it failed, in a sentence
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import Ticket
from ortho_lora.record.admission import lock_run
from ortho_lora.record.files import read_bytes, replace_text
from ortho_lora.record.origin import Origin, find
from ortho_lora.record.schema import ACTIVE_STATES, CHECKPOINT, check_run_id, read_identity, read_status
from ortho_lora.study.plan import meaning
from ortho_lora.training.config import Config, load_config

State = Literal["new", "alive", "interrupted", "failed", "finished"]


@dataclass(frozen=True)
class Folder:
    """Where a study and its runs lie."""

    path: Path

    @classmethod
    def make(cls, runs_dir: Path, name: str) -> "Folder":
        """The directory of a study, made where there is none.

        Raises:
            OrthoLoraError: the name is not allowed, something else has it, or it cannot be made.
        """
        folder = cls(runs_dir / check_run_id(name))
        if (
            folder.path.exists()
            and not folder.hidden.is_dir()
            and any(of != folder.file for of in folder.path.iterdir())
        ):
            raise OrthoLoraError(f"{folder.path}: exists, and is not a study: choose another --name.")
        try:
            folder.hidden.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OrthoLoraError(
                f"{folder.path}: cannot be made ({error.strerror}): choose a --runs-dir you may write."
            ) from error
        return folder

    @property
    def hidden(self) -> Path:
        return self.path / ".study"

    @property
    def file(self) -> Path:
        """A copy of what the study is carried out from; `--from-advice` goes on with it."""
        return self.path / "study.yaml"

    def lock(self) -> FileLock:
        """Take the right to carry the study out; the system gives it back when the process ends.

        Raises:
            OrthoLoraError: another process has it.
        """
        lock = FileLock(self.hidden / "lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise OrthoLoraError(
                f"{self.path}: another command carries this study out: wait for its end, or stop it."
            ) from None
        return lock

    def settings(self, run_id: str) -> Path:
        return self.hidden / f"{run_id}.yaml"

    def output(self, run_id: str) -> Path:
        return self.hidden / f"{run_id}.log"

    def write_settings(self, run_id: str, config: Config) -> None:
        """Write the configuration as `--config` takes it."""
        settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        replace_text(self.settings(run_id), settings)

    def write_ticket(self, run_id: str, process: psutil.Process) -> None:
        replace_text(self._ticket(run_id), Ticket.of(process).model_dump_json())

    def process(self, run_id: str) -> psutil.Process | None:
        """The living process that trains a run on this machine, or is about to."""
        status = read_status(self.path / run_id)
        known: list[Origin] = [status] if status and status.state in ACTIVE_STATES else []
        with suppress(OSError, ValidationError):
            known.append(Ticket.model_validate_json(read_bytes(self._ticket(run_id))))
        return next((process for one in known if (process := find(one))), None)

    def _ticket(self, run_id: str) -> Path:
        return self.hidden / f"{run_id}.json"

    def failure(self, run_id: str) -> str | None:
        """Why a run failed; None where it did not."""
        try:
            return read_bytes(self.hidden / f"{run_id}.failed").decode("utf-8", "replace")
        except FileNotFoundError:
            return None

    def note_failure(self, run_id: str, sentence: str) -> None:
        replace_text(self.hidden / f"{run_id}.failed", sentence)

    def forget_failure(self, run_id: str) -> None:
        (self.hidden / f"{run_id}.failed").unlink(missing_ok=True)

    def state(self, run_id: str) -> State:
        """How a run is."""
        run, status = self.path / run_id, read_status(self.path / run_id)
        if status is not None and status.state == "finished":
            return "finished"
        if self.process(run_id) is not None:
            return "alive"
        if self.failure(run_id) is not None:
            return "failed"
        return "interrupted" if run.exists() else "new"

    def arguments(self, run_id: str) -> list[str]:
        """Of `python -m ortho_lora`, to have the run trained from where it is; hold nobody's lock.

        A run without a checkpoint begins anew: what there is of it is deleted.

        Raises:
            OrthoLoraError: another process writes the run.
        """
        run = self.path / run_id
        if (run / CHECKPOINT).is_file():
            return ["resume", str(run.resolve())]
        if run.exists():
            lock = lock_run(run)
            shutil.rmtree(run)
            lock.release()
        options = {"--config": self.settings(run_id).resolve(), "--runs-dir": self.path.resolve(), "--name": run_id}
        return ["train", *(str(part) for option in options.items() for part in option)]

    def check(self, run_id: str, config: Config) -> None:
        """Refuse a run that was trained, or begun, with other settings than those planned.

        Raises:
            OrthoLoraError: it was; the sentence names the first that differs.
        """
        run = self.path / run_id
        if not run.exists():
            return
        found = meaning(load_config(overrides=read_identity(run).config))
        planned = meaning(config)
        for name in sorted(found.keys() | planned.keys()):
            if found.get(name) != planned.get(name):
                raise OrthoLoraError(
                    f"{run}: has other settings than the study plans ({name}: {_shown(found.get(name))} there,"
                    f" {_shown(planned.get(name))} planned): move it away, or choose another --name."
                )

    def last_words(self, run_id: str) -> str:
        """What the last process of a run said of why it ended."""
        try:
            lines = read_bytes(self.output(run_id)).decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        if said := [line for line in lines if line.startswith("error: ")]:
            return said[-1].removeprefix("error: ")
        status = read_status(self.path / run_id)
        if status is not None and status.state == "failed" and status.message:
            return status.message
        return next((line for line in reversed(lines) if line.strip()), "it ended without a word")


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)
