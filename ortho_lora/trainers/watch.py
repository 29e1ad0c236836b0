"""`watch`: a surgeon inside anyone's `transformers.Trainer`, whose batches mix tasks as the data does."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery.methods import Branches, OnNonfinite, Order, Rule, Scope
from ortho_lora.trainers import losses, mixture, versions
from ortho_lora.trainers.inside import SurgeonInside

_LOGGED = ("_metrics", "_total_train_tokens", "_logs")
"""What kinds of trainers write of a loss, beside returning it."""
_INPUTS = ("input_ids", "inputs_embeds", "input_features", "pixel_values")
"""Names of what a model is given, whose first dimension counts rows."""


def watch(
    trainer: Trainer,
    task_column: str = "task",
    tasks: Sequence[str] | None = None,
    *,
    method: str = "joint",
    rule: Rule | None = None,
    scope: Scope | None = None,
    branches: Branches | None = None,
    order: Order = "random",
    recorder: Recorder | None = None,
    record_every: int = 1,
    on_nonfinite: OnNonfinite | None = None,
    log_pairs: bool | None = None,
) -> None:
    """Watch the tasks of one mixed data set while a trainer trains, or project their gradients.

    Call it between making the trainer and `trainer.train()`::

        trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=mixed, peft_config=LoraConfig(...))
        watch(trainer, task_column="source", recorder=Recorder("runs/mine"))
        trainer.train()

    Mixture, loss, learning rate and clipping stay the trainer's. With `method="joint"` so do the weights, bit for bit,
    and the logs, to which `OrthoLoRA.scalars` are added.

    Args:
        trainer: any kind whose batch is rows of the data set; a model with PEFT LoRA on linear layers.
        task_column: which says of each row of the training data what task it is of.
        tasks: their names, in order; None: all that the column holds.
        method: with `rule`, `scope`, `branches`, `order` and `record_every` as in `OrthoLoRA`.
        recorder: of one training, closed at its end; one that is resumed from a checkpoint goes on with it, in another
            process with `Recorder(..., resume=True)`.
        on_nonfinite: as in `OrthoLoRA`; None: go on, as the trainer alone does; the record tells.
        log_pairs: whether each pair is logged; None: with up to 8 tasks.

    Raises:
        OrthoLoraError: a trainer, a data set or a method that cannot be watched.
    """
    if isinstance(trainer, SurgeonInside):
        raise OrthoLoraError(f"watch: this {type(trainer).__name__} has a surgeon inside: expected a trainer without.")
    column = mixture.task_column(trainer.train_dataset, task_column, tasks)
    kind = type(trainer)
    trainer.__class__ = type(kind.__name__, (Watched, kind), {"__module__": kind.__module__, "kind": kind})
    watched = cast(Watched, trainer)
    watched.recorder, watched._log_pairs = recorder, log_pairs
    watched._surgery = {
        "method": method, "rule": rule, "scope": scope, "branches": branches, "order": order,
        "record_every": record_every, "on_nonfinite": on_nonfinite,
    }  # fmt: skip
    try:
        watched.prepare(column.tasks)
    except BaseException:
        trainer.__class__ = kind
        raise
    watched._carry(column)


class Watched(SurgeonInside):
    """Stands before the kind of a trainer that is watched."""

    kind: type[Trainer]  # what it was before
    _pass: ExitStack | None = None  # of a micro-batch under way: what ends with it
    _went_back = False  # whether its backward pass was ours
    _is_separate: bool | None = None  # whether the loss of a batch is a sum over its rows; None: not looked at yet

    def _carry(self, column: mixture.TaskColumn) -> None:
        """Have each batch say what task its rows are of."""
        self.data_collator = mixture.MixedCollator(self.data_collator, column)
        self._set_signature_columns_if_needed()
        cast(list[str], self._signature_columns).append(column.name)

    def _begin(self) -> None:
        super()._begin()
        self._shifts_labels = versions.shifts_labels(self.model)
        self._told = torch.zeros(2, len(self.surgeon.tasks))  # summed losses and counted labels of the step

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ever, but for the backward pass."""
        self._went_back = False
        with ExitStack() as self._pass, self._backward_replaced():
            found = super().training_step(*args, **kwargs)
        self._pass = None
        if not self._went_back:
            raise OrthoLoraError(
                f"watch: {self.kind.__name__} makes its backward pass by itself, not by `accelerator.backward`: nobody"
                " can watch it from outside. Put OrthoLoRA into a loop of your own."
            )
        return found

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As ever, and in a training step inside a mixed batch."""
        told = inputs.pop(mixture.KEY, None)
        if self._pass is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        if told is None:
            raise OrthoLoraError(
                f"watch: a batch of {self.kind.__name__} has lost the tasks of its rows: leave the trainer the"
                " data_collator that it has now."
            )
        places = told.tolist()
        if self._is_separate is None:
            self._is_separate = self._look(model, inputs, told, *args, **kwargs)
        # The surgeon averages over the ranks before it projects: what DistributedDataParallel would send is not needed.
        self._pass.enter_context(self.accelerator.no_sync(model))
        watched, labels = cast(nn.Module, self.model), inputs.get("labels")
        opened: list[Tensor] = []
        handles = [
            watched.register_forward_pre_hook(partial(self._enter, opened, places, labels), with_kwargs=True),
            watched.register_forward_hook(partial(self._see, opened, labels)),
        ]
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(
        self, opened: list[Tensor], places: list[int], labels: Any, _: nn.Module, args: Any, given: dict[str, Any]
    ) -> None:
        """Where the model is about to take the batch: be inside it."""
        if opened or not torch.is_grad_enabled():
            return
        rows = _rows_of(args, given)
        times, rest = divmod(rows, len(places))
        if rest or not times:
            raise OrthoLoraError(
                f"watch: the model is given {rows} rows for {len(places)} examples, so nobody knows which row is of"
                " which task: set padding_free=False and packing=False."
            )
        # Chosen and rejected answers stand below each other: all of one kind, then all of the other.
        tasks = places * times
        assert self._pass is not None
        self._pass.enter_context(
            self.surgeon.mixed_batch(
                tasks,
                weight_of_example=self._weights_of(labels, len(tasks)),
                group_of_example=[*range(len(places))] * times,
            )
        )
        opened.append(torch.tensor(tasks))

    def _see(self, opened: list[Tensor], labels: Any, _: nn.Module, __: Any, output: Any) -> None:
        """Add up each task's own loss, where the output tells it."""
        if not opened or not torch.is_grad_enabled():
            return
        found = losses.of_rows(output, labels, shifted=self._shifts_labels)
        if found is not None and len(found[0]) == len(opened[0]):
            told = losses.of_tasks(found, opened[0], len(self.surgeon.tasks))
            self._told = self._told.to(told) + told

    def _weights_of(self, labels: Any, rows: int) -> list[float] | None:
        """What share of its task's loss each row carries; None: nobody knows."""
        if not isinstance(labels, Tensor):
            return [1.0] * rows
        is_model_s = self.kind.compute_loss is Trainer.compute_loss or self.kind.__name__ == "SFTTrainer"
        if self.compute_loss_func is not None or not is_model_s or len(labels) != rows:
            return None
        return losses.counted(labels, shifted=self._shifts_labels).tolist()

    @contextmanager
    def _backward_replaced(self) -> Iterator[None]:
        """Let the accelerator's backward pass be the surgeon's."""
        accelerator = self.accelerator

        def backward(loss: Tensor, **_: Any) -> None:
            self._went_back, last = True, accelerator.sync_gradients
            self.surgeon.backward(
                loss / accelerator.gradient_accumulation_steps,
                told=self._take_told() if last else None,
                accumulate=not last,
                scaler=accelerator.scaler,
            )

        accelerator.backward = backward
        try:
            yield
        finally:
            del accelerator.backward

    def _take_told(self) -> dict[str, Tensor]:
        """The mean loss of each task in the step that ends."""
        sums, counts = self._told
        found = {
            task: sums[place] / counts[place]
            for place, (task, count) in enumerate(zip(self.surgeon.tasks, counts.tolist(), strict=True))
            if count
        }
        self._told = torch.zeros_like(self._told)
        return found

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As ever: what is evaluated needs no tasks."""
        inputs.pop(mixture.KEY, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    @torch.no_grad()
    def _look(self, model: nn.Module, inputs: dict[str, Any], told: Tensor, *args: Any, **kwargs: Any) -> bool:
        """Whether the loss of a batch is a sum over its tasks' rows: else a gradient's share is not a task's own."""
        if self.accelerator.num_processes > 1:  # ranks may hold other tasks, and would wait for each other
            return True
        kept = {name: deepcopy(getattr(self, name)) for name in _LOGGED if hasattr(self, name)}

        def loss_of(rows: Tensor) -> float:
            some = {name: _some(value, rows, len(told)) for name, value in inputs.items()}
            found = super(Watched, self).compute_loss(model, some, *args, **kwargs)
            return float(found[0] if isinstance(found, tuple) else found)

        with torch.random.fork_rng(), self.surgeon.collector.looking_away():
            model.eval()
            try:
                whole = loss_of(torch.arange(len(told), device=told.device))
                places = [(told == task).nonzero().flatten() for task in told.unique()]
                each = torch.tensor([loss_of(rows) for rows in places])
            finally:
                model.train()
                for name, value in kept.items():
                    setattr(self, name, value)
        labels = inputs.get("labels")
        weights = [torch.ones(len(told))]  # a mean over rows, or over labels
        if isinstance(labels, Tensor) and len(labels) == len(told):
            weights.append(losses.counted(labels, shifted=self._shifts_labels).float().cpu())
        shares = [torch.ones(len(places))]  # or a sum, divided by what the step holds
        shares += [torch.stack([of[rows.cpu()].sum() for rows in places]) / of.sum() for of in weights]
        error = min(abs(float(each @ share) - whole) for share in shares) / max(abs(whole), 1e-6)
        exact = next(model.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(told.device.type)
        if error <= (1e-3 if exact else 3e-2):
            return True
        warnings.warn(
            f"the loss of a batch of {self.kind.__name__} is not that of its tasks' rows by themselves: it is"
            f" {whole:.4g}, and theirs come to {float(each @ shares[-1]):.4g}. Rows of other tasks have a part in it,"
            " as negatives or by a loss that balances experts. What is measured of a task is its rows' share in the"
            " gradient; for the gradient of its own loss give each task batches of its own, as OrthoLoRATrainer does.",
            OrthoLoraWarning,
            stacklevel=2,
        )
        return False


def _rows_of(args: Any, given: Mapping[str, Any]) -> int:
    """How many rows a model is given."""
    named = [given.get(name) for name in _INPUTS]
    tensors = [value for value in [*named, *args, *given.values()] if isinstance(value, Tensor) and value.ndim]
    return len(tensors[0]) if tensors else 0


def _some(value: Any, rows: Tensor, count: int) -> Any:
    """Of what belongs to rows only some; it may stand there several times, as chosen and rejected answers do."""
    if not isinstance(value, Tensor | list) or not len(value) or len(value) % count:
        return value
    times = len(value) // count
    places = torch.cat([rows + count * time for time in range(times)])
    return value[places.to(value.device)] if isinstance(value, Tensor) else [value[place] for place in places.tolist()]
