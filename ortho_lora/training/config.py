"""The configuration of a run: the single source of every setting, validated before any model is loaded."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ortho_lora.errors import OrthoLoraError, nearest, require
from ortho_lora.surgery.methods import LARGEST_MEAN, METHODS, Branches, Method, OnNonfinite, Order, Rule, Scope, name_of
from ortho_lora.tasks.specs import DialTask, FileTask, HubTask, PackagedTask, Strict, Task, expand_task
from ortho_lora.training import yaml_text
from ortho_lora.training.groups import Groups, arranged, parsed


class Config(Strict):
    """Every setting of a run."""

    model: str = "minilm"
    """`minilm` or `smollm2` (packaged), a local directory, or a hub id; only safetensors, never remote code."""
    tasks: tuple[Task, ...] = Field(("trec", "tweets", "movies"), min_length=1, max_length=64, validate_default=True)
    """Packaged names, `hf:...`, `movies@0.7` for a dial, or mappings with the fields of a task."""

    method: Literal[tuple(METHODS)] = "ortho-lora"  # type: ignore[valid-type]
    """Rule, scope and branches under a name; `single` trains one adapter for each task."""
    rule: Rule | None = None
    """How gradients are combined, in place of the method's; `mgda` and what follows need the `torchjd` package."""
    scope: Scope | None = None
    """What the Gram matrix is summed over before projecting, in place of the method's."""
    branches: Branches | None = None
    """LoRA matrices that the rule is applied to, in place of the method's; the others take the plain sum."""
    order: Order = "random"
    """Order in which tasks are projected: drawn anew each step, as configured, or the mean over all (up to 5 tasks)."""

    groups: Annotated[Groups | None, BeforeValidator(parsed)] = Field(None, exclude_if=lambda groups: groups is None)
    """Tasks that share an adapter, `[[trec, tweets], [spam]]` or `trec + tweets | spam`; null: all of them do."""

    rank: int = Field(8, ge=1, le=4096)
    """Rank of the adapter."""
    alpha: float = Field(16.0, gt=0)
    """LoRA scaling: the adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the linear layers to adapt; null: query and value, as the architecture calls them."""
    pooling: Literal["auto", "mean", "first", "last"] = "auto"
    """How token states become one vector for the heads; `auto`: the mean, and of a decoder the last token's."""
    encoder_dropout: bool = False
    """Also use the frozen encoder's own dropout while training."""

    batch_size: int = Field(16, ge=1, le=8192)
    """Examples a task in each step."""
    max_length: int = Field(64, ge=2)
    """Tokens a text is cut to."""
    steps: int = Field(200, ge=1)
    """Optimizer steps."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer."""
    learning_rate: float = Field(5e-4, gt=0)
    """Learning rate of the adapter."""
    head_learning_rate: float = Field(5e-3, gt=0)
    """Learning rate of the task heads."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the update's gradient, after projection; null: not clipped."""

    on_nonfinite: OnNonfinite = "stop"
    """Where a loss or gradient is not finite: `stop` with an error, or `skip` the step and go on."""

    eval_every: int = Field(20, ge=1)
    """Steps between evaluations; there is always one at step 0 and one at the end."""
    eval_examples: int | None = Field(512, ge=1)
    """Fixed random subset of each evaluation split, the same for every seed; null: all of it."""
    selection_share: float = Field(0.0, ge=0, lt=1)
    """Share of the validation data to choose settings on: an evaluation split `selection`, evaluated at the end."""
    eval_batch_size: int = Field(64, ge=1)
    """Examples a forward pass in evaluation."""
    snapshots: int = Field(0, ge=0, le=1000)
    """How often to measure, at one place, how mean gradients agree: amid each of so many equal parts of the run."""
    snapshot_batches: int = Field(64, ge=8, le=100_000)
    """Batches of every task in a snapshot, which costs about as many steps."""
    snapshot_held_out: int | None = Field(None, ge=0, le=100_000)
    """Batches of every task's validation texts beside them, which cost as much, at most; null: as many; 0: none."""
    snapshot_texts: int = Field(32, ge=0, le=100_000)
    """Of them texts of every task that are recorded, each with what a step for every task does to its loss."""
    record_every: int = Field(1, ge=1)
    """Steps between records of gradients; losses are recorded in every step."""
    log: Literal["tensorboard"] | None = None
    """Where to log losses, cosines and metrics beside the record: `tensorboard`, in RUN/tensorboard; null: nowhere."""
    checkpoint_every: int | None = Field(100, ge=1)
    """Steps between checkpoints, which `resume` goes on from; also one at step 0 and at the end; null: none."""
    flush_rows: int = Field(1_000_000, ge=1)
    """Rows of a table after which a part is written."""
    flush_seconds: float = Field(2.0, gt=0)
    """Seconds after which a part is written."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of initialisation, batches, dropout and order of projection."""
    device: str = "auto"
    """`auto` takes an accelerator where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: mixed precision; the adapter stays in float32."""
    gradient_mode: Literal["auto", "fused", "sequential"] = "auto"
    """Passes that mix tasks, texts of like length together, or one a task; `auto`: mixed where each layer allows it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch; null: one a physical core."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        """Names separated by commas are a list of names, and a task's short form is its long one."""
        if not isinstance(values, dict):
            return values
        values = {"tasks": ("trec", "tweets", "movies"), **values}
        for name in ("tasks", "target_modules"):
            if isinstance(given := values.get(name), str):
                values[name] = [part.strip() for part in given.split(",") if part.strip()]
        if isinstance(tasks := values["tasks"], list | tuple):
            values["tasks"] = [expand_task(task) if isinstance(task, str) else task for task in tasks]
        return values

    @field_validator("groups")
    @classmethod
    def _of_the_tasks(cls, groups: Groups | None, info: ValidationInfo) -> Groups | None:
        if groups is None or "tasks" not in info.data:  # else they were refused
            return groups
        return arranged(groups, [task.name for task in info.data["tasks"]])

    def require_extras(self) -> None:
        """Say which extra is missing. Raises OrthoLoraError."""
        if self.log == "tensorboard":
            require("tensorboard", "tensorboard")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("expected auto, cpu, mps, cuda, or cuda:0 and so on")
        return device

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task {name!r} is given {names.count(name)} times: give each task a name of its own")
        for task in self.tasks:
            if isinstance(task, DialTask):
                if task.twin_of not in names:
                    raise ValueError(
                        f"task {task.name!r} is a twin of {task.twin_of!r}, which is not among the tasks"
                        f" ({', '.join(names)}): add it"
                    )
                original = self.tasks[names.index(task.twin_of)]
                if isinstance(original, DialTask):
                    raise ValueError(
                        f"task {task.name!r} is a twin of the twin {original.name!r}: name the original task"
                    )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}: expected fewer than the {self.steps} steps")
        if self.method == "single" and (self.rule or self.scope or self.branches):
            raise ValueError("method 'single' has nothing to project: leave rule, scope and branches out")
        if self.groups and self.method == "single":
            raise ValueError("method 'single' gives each task an adapter of its own: leave groups out")
        if self.groups and len(self.groups) == len(self.tasks):
            raise ValueError("groups: each task has an adapter of its own: give method 'single' instead")
        largest = max(map(len, self.groups or [self.tasks]))
        if self.order == "mean" and largest > LARGEST_MEAN:
            raise ValueError(
                f"order 'mean' goes through every order of {largest} tasks: expected at most {LARGEST_MEAN} tasks, or"
                " order 'random'"
            )
        return self

    @property
    def effective(self) -> Method:
        """The method with the parts of it that are given apart."""
        return METHODS[self.method].changed(self.rule, self.scope, self.branches)

    @property
    def sharing(self) -> tuple[tuple[int, ...], ...]:
        """Places of the tasks that share an adapter, by adapter."""
        names = [task.name for task in self.tasks]
        if self.method == "single":
            return tuple((place,) for place in range(len(names)))
        return tuple(tuple(map(names.index, group)) for group in self.groups or [names])

    @property
    def snapshots_taken(self) -> int:
        """None where not all tasks share an adapter: there are no gradients of all of them to compare."""
        return self.snapshots if len(self.tasks) > 1 and len(self.sharing) == 1 else 0

    @property
    def label(self) -> str:
        """The method's name, or what it consists of where it has none; `-grouped` where groups share adapters."""
        named = self.method if self.method == "single" else name_of(self.effective)
        return f"{named}-grouped" if self.groups else named


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration file (YAML), if any, and replace some of its settings.

    Raises:
        OrthoLoraError: the file cannot be read, or a key or value is refused; the sentence names the nearest valid one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml_text.load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise OrthoLoraError(f"configuration {path}: cannot be read ({error}).") from error
        except yaml.YAMLError as error:
            raise OrthoLoraError(f"configuration {path}: not valid YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(values, dict):
            raise OrthoLoraError(f"configuration {path}: expected settings as `key: value`, found {values!r}.")
    try:
        return Config.model_validate({**values, **(overrides or {})})
    except ValidationError as error:
        raise OrthoLoraError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """The refused settings in words: where, what was given, what was expected."""
    details = error.errors()
    # A list whose members were refused is then also too short.
    known = [detail for detail in details if detail["type"] != "too_short" or len(details) == 1]
    return "\n".join(dict.fromkeys(_sentence(dict(detail)) for detail in known))


def _sentence(detail: dict[str, Any]) -> str:
    path = [str(part) for part in detail["loc"] if part not in ("packaged", "file", "hub", "dial")]
    where = ".".join(path)
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        kinds: list[type[Strict]] = [PackagedTask, FileTask, HubTask, DialTask] if len(path) > 1 else [Config]
        valid = {name for kind in kinds for name in kind.model_fields}
        return f"{where}: there is no such setting{nearest(path[-1], valid)}."
    if detail["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        remedy = nearest(str(given), expected)
        if path[0] == "tasks" and path[-1] == "name":
            remedy += "; own data needs `path`, a hub's data set is `hf:NAME`, a conflict dial `TASK@0.7`"
        return f"{where}: {given!r} given, expected one of {', '.join(expected)}{remedy}."
    if detail["type"] in ("model_type", "model_attributes_type", "union_tag_invalid") and path[0] == "tasks":
        return f"{where}: {given!r} given, expected a name, as in trec, or a mapping with the fields of a task."
    if detail["type"] == "string_type" and isinstance(given, bool | int | float | date):
        quoted = str(given).lower() if isinstance(given, bool) else given
        return f'{where}: {given!r} given, expected text: write it in quotation marks, as in "{quoted}".'
    message = detail["msg"].removeprefix("Value error, ")
    if not where:
        return f"{message}."
    return f"{where}: {given!r} given; {message[0].lower()}{message[1:]}."
