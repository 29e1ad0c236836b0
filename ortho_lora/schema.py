"""The record of a run on disk: one directory, the only thing between training and looking.

Importable without torch. Every table is a set of Parquet parts in step order; `manifest.json` says which parts count.

    runs/<run_id>/
      run.json  status.json  manifest.json  log.txt
      lock                     held (flock) by the process that writes the run
      pairs/part-*.parquet  norms/part-*.parquet  steps/part-*.parquet  metrics/part-*.parquet
      checkpoint/state.pt      all that a bit-exact resume needs: adapter, heads, optimizer, samplers, random states
      adapter/
"""

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from ortho_lora.errors import OrthoLoraError

SCHEMA_VERSION = 1
BRANCHES = ("A", "B")
RUNS_DIR_VARIABLE = "ORTHO_LORA_RUNS_DIR"

State = Literal["queued", "running", "stopping", "stopped", "failed", "finished"]
ACTIVE_STATES: tuple[State, ...] = ("queued", "running", "stopping")
PATIENCE = 60.0
"""Seconds without a sign of the training thread after which a run counts as stalled."""

_name = pa.dictionary(pa.int32(), pa.string())


def _table(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, metadata={"meaning": meaning}) for name, dtype, meaning in columns])


_BLOCK = (
    ("step", pa.int32(), "optimizer step, from 0"),
    ("layer", pa.int16(), "index of the transformer layer; -1 where the module's name holds none"),
    ("module", _name, "adapted linear layer within its layer, as in `query`"),
    ("branch", _name, "LoRA matrix: `A` or `B`"),
)

TABLES: dict[str, pa.Schema] = {
    "pairs": _table(
        *_BLOCK,
        ("task_i", _name, "first task of the unordered pair, in configuration order"),
        ("task_j", _name, "second task of the pair"),
        ("cos_before", pa.float32(), "cosine of the two tasks' gradients; null where a gradient is zero or missing"),
        ("cos_after", pa.float32(), "the same after the rule; null where a gradient is zero or missing"),
        ("projected_ij", pa.bool_(), "task_i's gradient was projected onto the normal plane of task_j's"),
        ("projected_ji", pa.bool_(), "task_j's gradient was projected onto the normal plane of task_i's"),
    ),
    "norms": _table(
        *_BLOCK,
        ("task", _name, "task"),
        (
            "norm_before",
            pa.float32(),
            "Euclidean norm of the task's gradient on the block; null where the task did not reach it",
        ),
        ("norm_after", pa.float32(), "its norm after the rule"),
        ("half_product", pa.float32(), "<g^a, g^b> of the gradients of the batch's two halves; null if not split"),
        ("weight", pa.float32(), "effective task weight w_j = sum_i C_ij of the gradient in the update"),
    ),
    "steps": _table(
        ("step", pa.int32(), "optimizer step, from 0"),
        ("task", _name, "task"),
        (
            "loss",
            pa.float32(),
            "mean loss of the task's batch, before the step, without the loss weight; null if not known",
        ),
        ("learning_rate", pa.float64(), "learning rate of the adapter in this step; null if not known"),
        ("seconds", pa.float32(), "wall-clock time of the whole step; `train`: without evaluation"),
        ("order", pa.int16(), "place of the task in the step's order of projection, from 0; -1: mean over all orders"),
    ),
    "metrics": _table(
        ("step", pa.int32(), "optimizer steps done before the evaluation"),
        ("split", _name, "evaluation split, as in `validation`"),
        ("task", _name, "task"),
        ("metric", _name, "scikit-learn metric, or `loss`"),
        ("value", pa.float64(), "its value"),
        ("examples", pa.int32(), "number of examples it was computed on"),
    ),
}


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


class ModuleInfo(BaseModel):
    """One LoRA-adapted layer."""

    model_config = ConfigDict(frozen=True)

    layer: int
    module: str
    path: str  # name inside the model
    shapes: dict[str, tuple[int, ...]]  # of the matrix of each branch


class RunInfo(BaseModel):
    """`run.json`: the identity of a run, written once before the first step."""

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
    modules: tuple[ModuleInfo, ...]
    versions: dict[str, str]
    command: list[str]

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]


class Status(BaseModel):
    """`status.json`: the life of a run, replaced atomically."""

    state: State
    step: int = 0
    total: int = 0  # 0: not known
    phase: str = "starting"  # starting, evaluating, training, saving, done
    eta_seconds: float | None = None
    pid: int
    process_start_time: float  # seconds since the epoch: a later process may carry the same pid
    heartbeat: float  # seconds since the epoch: the last sign of the training thread, be it a step or a batch evaluated
    patience_seconds: float = PATIENCE  # without a sign, until the run counts as stalled; more where steps take minutes
    losses: dict[str, float] = {}
    message: str = ""

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
    path = Path(run_dir) / "run.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version > SCHEMA_VERSION:
            raise OrthoLoraError(
                f"{path}: written with record version {version}, this program reads up to {SCHEMA_VERSION}: "
                "update ortho-lora to open it."
            )
        return RunInfo.model_validate(document)
    except FileNotFoundError:
        raise OrthoLoraError(f"{path.parent}: not a run (no run.json); expected a directory made by `train`.") from None
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or not this document
        raise OrthoLoraError(f"{path}: cannot be read as the identity of a run ({error}).") from error


def read_status(run_dir: Path) -> Status | None:
    """Read `status.json`; None where there is none or it is not one."""
    try:
        return Status.model_validate_json((Path(run_dir) / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def part_files(run_dir: Path, table: str) -> list[Path]:
    """The Parquet parts of `table` that count now, in step order.

    Raises:
        KeyError: there is no such table.
    """
    TABLES[table]
    run_dir = Path(run_dir)
    try:
        manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise OrthoLoraError(f"{run_dir / 'manifest.json'}: not valid JSON ({error}).") from error
    return [run_dir / table / name for name in manifest.get(table, [])]
