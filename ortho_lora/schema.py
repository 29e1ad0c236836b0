"""The record of a run on disk: one directory, the only thing between training and looking.

Importable without torch, with the tables and the manifest. Every table is a set of Parquet parts in step order;
`manifest.json` says which parts count.

    runs/<run_id>/
      run.json  status.json  manifest.json  log.txt
      notes.json               what people say of the run: `analysis.notes`; training neither reads nor writes it
      lock                     held (flock) by the process that writes the run
      pairs/part-*.parquet  norms/part-*.parquet  steps/part-*.parquet  metrics/part-*.parquet
      events/part-*.parquet    what went wrong in a step; no rows where nothing did
      predictions/part-*.parquet  of the last evaluation
      rollup/*/part-*.parquet  sums over them, for overviews; small parts of any table are put together while it grows
      checkpoint/state.pt      all that a bit-exact resume needs: adapter, heads, optimizer, samplers, random states
      adapter/
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import from_json

from ortho_lora.errors import OrthoLoraError
from ortho_lora.manifest import Bins, Manifest, Part, part_files, read_manifest
from ortho_lora.tables import BINS_TOGETHER, ROLLUPS, SCHEMAS, TABLES

__all__ = [
    "ACTIVE_STATES",
    "BINS_TOGETHER",
    "BRANCHES",
    "CHECKPOINT",
    "PATIENCE",
    "ROLLUPS",
    "RUNS_DIR_VARIABLE",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "TABLES",
    "Bins",
    "Identity",
    "Manifest",
    "ModuleInfo",
    "Part",
    "RunInfo",
    "State",
    "Status",
    "TaskInfo",
    "check_run_id",
    "default_runs_dir",
    "left_out_words",
    "part_files",
    "read_identity",
    "read_manifest",
    "read_run",
    "read_status",
    "replace_text",
    "sync_directory",
]

SCHEMA_VERSION = 1
BRANCHES = ("A", "B")
CHECKPOINT = "checkpoint/state.pt"
"""What `resume` goes on from, in the directory of a run."""
RUNS_DIR_VARIABLE = "ORTHO_LORA_RUNS_DIR"

State = Literal["queued", "running", "stopping", "stopped", "failed", "finished"]
ACTIVE_STATES: tuple[State, ...] = ("queued", "running", "stopping")
PATIENCE = 60.0
"""Seconds without a sign of the training thread after which a run counts as stalled."""


class TaskInfo(BaseModel):
    """What a reader needs to know of a task without its data."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["classification", "regression"] | None = None  # None: trained in a loop of the user's own
    classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()  # the first is the task's primary one
    train_examples: int | None = None
    evaluation_examples: dict[str, int] = {}  # examples evaluated, by split
    majority: dict[str, dict[str, float]] = {}  # by split and metric: always the most frequent class, or the mean
    twin_of: str | None = None
    shares_head: bool = False
    loss_weight: float = 1.0
    dropped: dict[str, dict[str, int]] = {}  # rows left out, by split and reason: `empty`, `repeated`, `label NAME`

    @property
    def left_out(self) -> str:
        """The rows left out of its data, in words; empty: none."""
        return left_out_words(self.dropped)


def left_out_words(dropped: Mapping[str, Mapping[str, int]]) -> str:
    """Like `3 empty of train; 20 label - of validation`."""
    return "; ".join(
        f"{', '.join(f'{count} {reason}' for reason, count in reasons.items())} of {split}"
        for split, reasons in dropped.items()
    )


class ModuleInfo(BaseModel):
    """One LoRA-adapted layer."""

    model_config = ConfigDict(frozen=True)

    layer: int
    module: str
    path: str  # name inside the model
    shapes: dict[str, tuple[int, ...]]  # of the matrix of each branch


class ProbeInfo(BaseModel):
    """Where a probe measured: parameters that stayed as they were from its first batch to its last."""

    model_config = ConfigDict(frozen=True)

    run: str | None = None  # whose checkpoint it was; None: freshly initialised
    step: int = 0  # optimizer steps that the parameters had taken
    seed: int  # of the batches

    @property
    def where(self) -> str:
        """Like `at step 100 of run demo`, or `at the start`."""
        return "at the start" if self.run is None else f"at step {self.step} of run {self.run}"


class Identity(BaseModel):
    """`run.json` but for its modules, of which a model may have hundreds: all that a list of many runs reads."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created: float  # seconds since the epoch, UTC
    method: str
    rule: str
    scope: str
    seed: int
    gradient_mode: str  # `fused` or `sequential`; `library` where the user's own loop decides
    config: dict[str, Any]
    tasks: tuple[TaskInfo, ...]
    versions: dict[str, str]
    command: list[str]
    probe: ProbeInfo | None = None  # None: a run that trained; else its steps are batches that changed nothing

    @field_validator("schema_version")  # the first field: a newer record may differ in all others
    @classmethod
    def _refuse_newer(cls, version: int) -> int:
        if version > SCHEMA_VERSION:
            raise OrthoLoraError(
                f"written with record version {version}, this program reads up to {SCHEMA_VERSION}: "
                "update ortho-lora to open it."
            )
        return version

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]


class RunInfo(Identity):
    """`run.json`: the identity of a run, written once before the first step."""

    modules: tuple[ModuleInfo, ...]  # the last field, so that `read_identity` need not read so far


_HEAD = 2**12
"""Bytes of `run.json` in which its modules begin, but for runs of very many tasks."""

_Identity = TypeVar("_Identity", bound=Identity)


class Status(BaseModel):
    """`status.json`: the life of a run, replaced atomically."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # JSON has no other word for a loss that is not finite

    state: State
    step: int = 0
    total: int = 0  # 0: not known
    phase: str = "starting"  # starting, evaluating, training or probing, saving, done
    eta_seconds: float | None = None
    pid: int
    process_start_time: float  # seconds since the epoch: a later process may carry the same pid
    heartbeat: float  # seconds since the epoch: the last sign of the training thread, be it a step or a batch evaluated
    patience_seconds: float = PATIENCE  # without a sign, until the run counts as stalled; more where steps take minutes
    losses: dict[str, float] = {}
    metrics: dict[str, dict[str, dict[str, float]]] = {}  # the last values, by split, task and metric
    message: str = ""
    peak_memory_bytes: int | None = None  # of the accelerator where there is one, else of the process; None: not known

    @field_validator("losses", mode="before")
    @classmethod
    def _read_null(cls, losses: Any) -> Any:
        """As former versions wrote a loss that is not finite."""
        if not isinstance(losses, dict):
            return losses
        return {task: math.nan if loss is None else loss for task, loss in losses.items()}

    @property
    def progress(self) -> str:
        """Like `step 3 of 20`, or `step 3` where nobody knows how many there will be."""
        return f"step {self.step}" + (f" of {self.total}" if self.total else "")


def default_runs_dir() -> Path:
    return Path(os.environ.get(RUNS_DIR_VARIABLE) or "runs")


_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def check_run_id(run_id: str) -> str:
    """Return `run_id`; raise where it could leave the runs directory or be hidden in it."""
    if not _RUN_ID.fullmatch(run_id):
        raise OrthoLoraError(
            f"run name {run_id!r}: expected 1 to 100 letters, digits, '.', '_' or '-', not starting with '.' or '-'."
        )
    return run_id


def replace_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sync_directory(path: Path) -> None:
    """Put names that were made or replaced in a directory on disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_run(run_dir: Path) -> RunInfo:
    """Read `run.json`.

    Raises:
        OrthoLoraError: there is none, it cannot be read, or a newer version of this program wrote it.
    """
    return _read_identity(RunInfo, Path(run_dir) / "run.json")


def read_identity(run_dir: Path) -> Identity:
    """Read `run.json` without its modules, in a small part of the time; refuses as `read_run` does."""
    path = Path(run_dir) / "run.json"
    try:
        with path.open("rb") as file:
            head = from_json(file.read(_HEAD), allow_partial=True)
        if "modules" in head:  # the last of the fields: those before it are whole
            return Identity.model_validate(head)
    except (OSError, ValueError, TypeError):
        pass  # longer, older or broken: told by reading all of it
    return _read_identity(Identity, path)


def _read_identity(kind: type[_Identity], path: Path) -> _Identity:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise OrthoLoraError(f"{path.parent}: not a run (no run.json); expected a directory made by `train`.") from None
    except OrthoLoraError as error:
        raise OrthoLoraError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise OrthoLoraError(f"{path}: cannot be read as the identity of a run ({said}).") from error


def read_status(run_dir: Path) -> Status | None:
    """Read `status.json`; None where there is none or it is not one."""
    try:
        return Status.model_validate_json((Path(run_dir) / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
