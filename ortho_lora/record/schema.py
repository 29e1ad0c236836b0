"""The record of a run on disk: one directory, the only thing between training and looking.

Importable without torch, with the tables and the manifest. Every table is a set of Parquet parts in step order;
`manifest.json` says which parts count.

    runs/<run_id>/
      run.json  status.json  manifest.json  log.txt
      notes.json               what people say of the run: `analysis.library.notes`, and nobody else
      lock                     held (flock) by the process that writes the run
      pairs/part-*.parquet  norms/part-*.parquet  steps/part-*.parquet  metrics/part-*.parquet
      events/part-*.parquet    what went wrong in a step; no rows where nothing did
      predictions/part-*.parquet  of the last evaluation
      lookahead/part-*.parquet  of a lookahead, which has no other rows
      rollup/*/part-*.parquet  sums over them, for overviews; small parts of any table are put together while it grows
      checkpoint/state.pt      all that a bit-exact resume needs: adapter, heads, optimizer, samplers, random states
      adapter/
"""

import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import open_regular, read_bytes, why
from ortho_lora.record.origin import Life, Origin, locked
from ortho_lora.record.versions import refuse_newer

SCHEMA_VERSION = 1
BRANCHES = ("A", "B")
CHECKPOINT = "checkpoint/state.pt"
"""What `resume` goes on from, in the directory of a run."""
RUNS_DIR_VARIABLE = "ORTHO_LORA_RUNS_DIR"

State = Literal["queued", "running", "stopping", "stopped", "failed", "finished"]
ACTIVE_STATES: tuple[State, ...] = ("queued", "running", "stopping")
PATIENCE = 60.0
"""Seconds without a sign of the training thread after which a run counts as stalled."""


Count = Annotated[int, Field(ge=0, lt=2**63)]
Moment = Annotated[float, Field(ge=0, lt=2.5e11)]
"""Seconds since the epoch, UTC, before the year 9892."""


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

    layer: int  # `record.layers.layer_name` has its name
    module: str
    path: str  # name inside the model
    shapes: dict[str, tuple[int, ...]]  # of the matrix of each branch


class ProbeInfo(BaseModel):
    """Where a probe took its snapshot, or a lookahead its steps."""

    model_config = ConfigDict(frozen=True)

    run: str | None = None  # whose checkpoint it was; None: freshly initialised
    step: int = 0  # optimizer steps that the parameters had taken
    seed: int  # of groups of texts, batches and dropout
    steps: int = 0  # of a lookahead, in each draw; 0: a probe

    @property
    def what(self) -> str:
        """Like `probe at step 100 of run demo`, or `lookahead of 10 steps at step 100 of run demo`."""
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        return f"lookahead of {steps} {self.where}" if self.steps else f"probe {self.where}"

    @property
    def where(self) -> str:
        """Like `at step 100 of run demo`, or `at the start`."""
        return "at the start" if self.run is None else f"at step {self.step} of run {self.run}"


class Identity(BaseModel):
    """`run.json` but for its modules, of which a model may have hundreds: all that a list of many runs reads."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created: Moment  # by the clock of its host
    method: str
    rule: str
    scope: str
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    gradient_mode: str  # `fused` or `sequential`; `library` where the user's own loop decides
    config: dict[str, Any]
    tasks: tuple[TaskInfo, ...]
    versions: dict[str, str]
    command: list[str]
    probe: ProbeInfo | None = None  # None: a run that trained; else a probe, whose steps are batches, or a lookahead

    @field_validator("schema_version")  # the first field: a newer record may differ in all others
    @classmethod
    def _refuse_newer(cls, version: int) -> int:
        return refuse_newer("record", version, SCHEMA_VERSION)

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...] | None:
        """Names of the tasks that share an adapter, by adapter; None: all share one, or with `single` none does."""
        return tuple(map(tuple, groups)) if (groups := self.config.get("groups")) else None


class RunInfo(Identity):
    """`run.json`: the identity of a run, written once before the first step."""

    modules: tuple[ModuleInfo, ...]  # the last field, so that `read_identity` need not read so far


_HEAD = 2**12
"""Bytes of `run.json` in which its modules begin, but for runs of very many tasks."""

_Identity = TypeVar("_Identity", bound=Identity)


class Status(Origin):
    """`status.json`: the life of a run, and the process that trains it; replaced atomically."""

    model_config = ConfigDict(ser_json_inf_nan="strings")  # JSON has no other word for a loss that is not finite

    state: State
    step: Count = 0
    total: Count = 0  # 0: not known
    phase: str = "starting"  # starting, evaluating, training, snapshot, probing or looking ahead, saving, done
    eta_seconds: float | None = None
    heartbeat: float  # seconds since the epoch: the last sign of the training thread, be it a step or a batch evaluated
    heartbeat_monotonic: float | None = None  # the same by the clock of its host that nobody steps
    patience_seconds: float = PATIENCE  # without a sign, until the run counts as stalled; more where steps take minutes
    losses: dict[str, float] = Field({})
    metrics: dict[str, dict[str, dict[str, float]]] = Field({})  # the last values, by split, task and metric
    message: str = ""
    peak_memory_bytes: int | None = None  # of the accelerator where there is one, else of the process; None: not known

    @field_validator("losses", mode="before")
    @classmethod
    def _read_null(cls, losses: Any) -> Any:
        """As former versions wrote a loss that is not finite."""
        if not isinstance(losses, dict):
            return losses
        return {task: math.nan if loss is None else loss for task, loss in losses.items()}

    def life(self, run_dir: Path) -> Life:
        """Whether the process that trains this run lives, as far as can be told from here."""
        if (seen := self.process_life) == "unknown" and self.same_kernel and not locked(run_dir / "lock"):
            return "gone"  # in another container of this machine, which would hold the run's lock
        return seen

    @property
    def silent(self) -> bool:
        """Whether a process that lives has given no sign for longer than it may; of another host nobody here knows."""
        if self.heartbeat_monotonic is None:
            return self.host is None and time.time() - self.heartbeat > self.patience_seconds
        return self.visible and time.monotonic() - self.heartbeat_monotonic > self.patience_seconds

    @property
    def progress(self) -> str:
        """Like `step 3 of 20`, or `step 3` where nobody knows how many there will be."""
        return f"step {self.step}" + (f" of {self.total}" if self.total else "")


def groups_text(groups: Iterable[Iterable[str]]) -> str:
    """Like `trec + tweets | spam`: who shares an adapter."""
    return " | ".join(" + ".join(group) for group in groups)


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


def check_place(name: str) -> str:
    """Return the name of a run that may be there already; raise where it is not that of something in a directory.

    A directory that somebody copied or renamed may have any name: it is read by that, and new runs are named by
    `check_run_id`.
    """
    if not name or name[0] == "." or "\0" in name or Path(name).name != name:
        raise OrthoLoraError(f"run name {name!r}: expected that of a directory among the runs: no path, not hidden.")
    return name


def read_run(run_dir: Path) -> RunInfo:
    """Read `run.json`; the run goes by the name of its directory, which may have been renamed or copied.

    Raises:
        OrthoLoraError: there is none, it cannot be read, or a newer version of this program wrote it.
    """
    return _read_identity(RunInfo, Path(run_dir) / "run.json")


def read_identity(run_dir: Path) -> Identity:
    """Read `run.json` without its modules, in a small part of the time; refuses as `read_run` does."""
    path = Path(run_dir) / "run.json"
    try:
        with open_regular(path) as file:
            head = from_json(file.read(_HEAD), allow_partial=True)
        if "modules" in head:  # the last of the fields: those before it are whole
            return _where_it_stands(Identity.model_validate(head), path)
    except (OSError, ValueError, TypeError):
        pass  # longer, older or broken: told by reading all of it
    return _read_identity(Identity, path)


def _read_identity(kind: type[_Identity], path: Path) -> _Identity:
    try:
        return _where_it_stands(kind.model_validate_json(read_bytes(path)), path)
    except FileNotFoundError:
        raise OrthoLoraError(f"{path.parent}: not a run (no run.json); expected a directory made by `train`.") from None
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be read ({why(error)}).") from error
    except OrthoLoraError as error:
        raise OrthoLoraError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise OrthoLoraError(f"{path}: cannot be read as the identity of a run ({said}).") from error


def _where_it_stands(identity: _Identity, path: Path) -> _Identity:
    return identity.model_copy(update={"run_id": os.path.basename(os.path.dirname(os.path.abspath(path)))})


def read_status(run_dir: Path) -> Status | None:
    """Read `status.json`; None where there is none or it is not one."""
    try:
        return Status.model_validate_json(read_bytes(Path(run_dir) / "status.json"))
    except (OSError, ValidationError):
        return None
