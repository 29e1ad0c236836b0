"""What stands before a kind of trainer that is watched: its seams, a backward pass of ours, and snapshots."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning, OwnPassError
from ortho_lora.surgery.arguments import check_plain, check_whole
from ortho_lora.surgery.blocks import blocks
from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.snapshot import snapshot_steps
from ortho_lora.trainers import losses, mixture, versions
from ortho_lora.trainers.alone import OVER_TOKENS, Answers, UnlikeError, alone, tells
from ortho_lora.trainers.examples import Examples
from ortho_lora.trainers.inside import SurgeonInside
from ortho_lora.trainers.snapshots import Row, Rows, Snapshots, draw, held_out_rows, scalars_of

_LOGGED = ("_metrics", "_stored_metrics", "_total_train_tokens", "_logs")
"""What kinds of trainers write of a loss, beside returning it."""
_INPUTS = ("input_ids", "inputs_embeds", "input_features", "pixel_values")
"""Names of what a model is given, whose first dimension counts rows."""
APART = 10
"""Steps of one task each after which it is said that nothing can be compared."""


class Watched(SurgeonInside):
    """Stands before the kind of a trainer that is watched."""

    kind: type[Trainer]  # what it was before
    _pass: ExitStack | None = None  # of a micro-batch under way: what ends with it
    _went_back = False  # whether its backward pass was ours
    _is_separate: bool | None = None  # whether the loss of a batch is a sum over its rows; None: not looked at yet
    _snapshots: Snapshots | None = None
    _found: Mapping[str, float] = MappingProxyType({})  # by the last snapshot, not logged yet

    def prepare(self, tasks: list[str]) -> None:
        """Say so too, before any training, where a layer is none that a mixed batch can be taken apart by."""
        with _told_here():
            check_plain(blocks(cast(nn.Module, self.model)))
        super().prepare(tasks)

    def carry(self, column: mixture.TaskColumn) -> None:
        """Have each batch say what task its rows are of."""
        self.data_collator = mixture.MixedCollator(self.data_collator, column)
        self._set_signature_columns_if_needed()
        cast(list[str], self._signature_columns).extend((column.name, mixture.KEY))

    def _begin(self) -> None:
        super()._begin()
        self._shifts_labels = versions.shifts_labels(self.model)
        self._told = torch.zeros(2, len(self.surgeon.tasks))  # summed losses and counted labels of the step
        self._apart: int | None = 0  # steps so far, of one task each; None: one held several
        self._tells = tells(self)  # whether a loss can be made of former answers

    def plan(self, column: mixture.TaskColumn, count: int, batches: int, group_column: str | None) -> None:
        """Have snapshots be taken."""
        check_whole("snapshots", count, 0)
        check_whole("snapshot_batches", batches, 8)
        if isinstance(self, Generating):
            raise OrthoLoraError(f"snapshots: {self.kind.__name__} generates what it learns from: leave snapshots out.")
        rows = self._rows(column, group_column)
        self._snapshots = Snapshots(count, batches, rows, held_out_rows(self.eval_dataset, column, group_column))
        # What a task has of the mixture, which is what its gradient weighs in the optimizer's.
        self._surgery["loss_weights"] = self._shares(rows)

    def _rows(self, column: mixture.TaskColumn, group_column: str | None) -> dict[str, tuple[Rows, int]]:
        """By task, where its examples are, and its place there."""
        rows = Rows(self.train_dataset, column, group_column=group_column)
        return {task: (rows, place) for place, task in enumerate(column.tasks)}

    def _shares(self, rows: Mapping[str, tuple[Rows, int]]) -> dict[str, float]:
        """Of the tasks in the mixture."""
        return next(iter(rows.values()))[0].shares(_labels_of)

    def take_snapshot_if_due(self) -> None:
        """Measure, where the plan says so, how the tasks' mean gradients agree; nothing of the training changes."""
        plan, step = self._snapshots, self.state.global_step
        if plan is None or step not in snapshot_steps(self.state.max_steps, plan.times):
            return
        seed, size = self.args.seed, self._train_batch_size
        drawn = draw(plan.rows, plan.batches, size, seed=seed, step=step)
        held_out = draw(plan.held_out, plan.batches, size, seed=seed, step=step, held_out=True)
        with self._unnoticed():
            found = self.surgeon.snapshot(
                drawn.batches, self._loss_of, targets=held_out.batches or None, groups=drawn.groups,
                target_groups=held_out.groups or None, seed=seed,
            )  # fmt: skip
        if self.surgeon.recorder is not None:
            self.surgeon.recorder.add_snapshot(step, found)
            self.surgeon.recorder.flush()
        self._found = scalars_of(found, self.surgeon.loss_weights) if self._logs_pairs else {}

    def _loss_of(self, _: str, rows: Sequence[Row]) -> Tensor:
        """The mean loss of some examples, as the trainer has it."""
        inputs = self._prepare_inputs(self._collated(rows))
        with self.compute_loss_context_manager():
            return cast(Tensor, self.kind.compute_loss(self, self.model_wrapped, inputs))

    def _collated(self, rows: Sequence[Row]) -> Any:
        """A batch of some examples, as the trainer has it."""
        known: set[str] | None = set(self._signature_columns or ()) if self.args.remove_unused_columns else None
        batch = self.data_collator(
            [{name: of for name, of in row.items() if known is None or name in known} for row in rows]
        )
        for key in mixture.KEYS:
            batch.pop(key, None)
        return batch

    @contextmanager
    def _unnoticed(self) -> Iterator[None]:
        """Put back what a kind of trainer writes of each loss."""
        kept = {name: deepcopy(getattr(self, name)) for name in _LOGGED if hasattr(self, name)}
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the last snapshot tells to the next log of a training."""
        if "loss" in logs:
            logs |= self._found
            self._found = {}
        super().log(logs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ever, but for the backward pass."""
        self._went_back = False
        try:
            with _told_here(), ExitStack() as self._pass, self._backward_replaced():
                found = super().training_step(*args, **kwargs)
        finally:
            self._pass = None
        if not self._went_back:
            raise OrthoLoraError(
                f"watch: {self.kind.__name__} makes its backward pass by itself, not by `accelerator.backward`: nobody"
                " can watch it from outside. Put OrthoLoRA into a loop of your own."
            )
        return found

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As ever, and in a training step inside a mixed batch."""
        inputs = dict(inputs) if isinstance(inputs, dict) else inputs  # a batch may come again
        told, lengths, groups = (inputs.pop(key, None) for key in mixture.KEYS)
        if self._pass is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        if told is None:
            raise OrthoLoraError(
                f"watch: a batch of {self.kind.__name__} has lost the tasks of its rows: leave the trainer the"
                " data_collator that it has now."
            )
        batch = Examples(
            told.tolist(),
            None if lengths is None else lengths.tolist(),
            inputs.get("labels"),
            list(range(len(told))) if groups is None else groups.tolist(),
        )
        if self._is_separate is None:
            self._is_separate = self._look(model, inputs, batch, *args, **kwargs)
        # The surgeon averages over the ranks before it projects: what DistributedDataParallel would send is not needed.
        self._pass.enter_context(self.accelerator.no_sync(model))
        watched = cast(nn.Module, self.model)
        handles = [
            watched.register_forward_pre_hook(partial(self._enter, batch), with_kwargs=True),
            watched.register_forward_hook(partial(self._see, batch)),
        ]
        answers, given = Answers(), dict(inputs)
        if self._tells:
            asked = [one for one in (watched, getattr(self, "ref_model", None)) if isinstance(one, nn.Module)]
            handles += [one.register_forward_hook(answers.add, with_kwargs=True) for one in asked]
        try:
            found = super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if self._tells:
            self._tell(answers, batch, given)
        return found

    def _enter(self, batch: Examples, _: nn.Module, args: Any, given: dict[str, Any]) -> None:
        """Where the model is about to take the batch: be inside it."""
        if batch.opened or not torch.is_grad_enabled():
            return
        batch.opened = True
        if batch.lengths is None:
            batch.repeat(_rows_of(args, given))
        assert self._pass is not None
        self._pass.enter_context(
            self.surgeon.mixed_batch(
                batch.tasks,
                weight_of_example=self._weights_of(batch),
                group_of_example=batch.groups,
                length_of_example=batch.lengths,
            )
        )

    def _see(self, batch: Examples, _: nn.Module, __: Any, output: Any) -> None:
        """Add up each task's own loss, where the output tells it."""
        if not batch.opened or not torch.is_grad_enabled():
            return
        found = losses.of_labels(output, batch.labels, shifted=self._shifts_labels)
        if found is not None and (batch.lengths is not None or len(found[0]) == len(batch.tasks)):
            told = losses.of_tasks(found, batch.task_of_label(found[0].shape), len(self.surgeon.tasks))
            self._told = self._told.to(told) + told

    @torch.no_grad()
    def _tell(self, answers: Answers, batch: Examples, inputs: dict[str, Any]) -> None:
        """Add up each task's own loss, as the trainer makes it of the task's examples alone."""
        told = torch.zeros(2, len(self.surgeon.tasks))
        try:
            with self._unnoticed(), alone(self):
                for task in batch.present:
                    with answers.of_task(batch, task):
                        found = self._loss_alone(batch.of_task(task, inputs), batch.examples_of(task))
                    told = told.to(found.device)
                    told[:, task] = found
        except UnlikeError:
            self._tells = False
            return
        self._told = self._told.to(told) + told

    def _loss_alone(self, inputs: dict[str, Any], examples: int) -> Tensor:
        """The summed loss of one task's examples, and how many there are, [2]."""
        loss = cast(Tensor, self.kind.compute_loss(self, cast(nn.Module, self.model), inputs)).float()
        return torch.stack([examples * loss, torch.full_like(loss, examples)])

    def _weights_of(self, batch: Examples) -> list[float] | None:
        """What share of its task's loss each example carries; None: nobody knows."""
        if isinstance(self, Generating):
            return None
        if not isinstance(batch.labels, Tensor):
            return [1.0] * len(batch.tasks)
        is_model_s = self.kind.compute_loss is Trainer.compute_loss or self.kind.__name__ == "SFTTrainer"
        if self.compute_loss_func is not None or not is_model_s:
            return None
        return batch.counted(shifted=self._shifts_labels)

    @contextmanager
    def _backward_replaced(self) -> Iterator[None]:
        """Let the accelerator's backward pass be the surgeon's."""
        accelerator = self.accelerator

        def backward(loss: Tensor, **_: Any) -> None:
            self._went_back, last = True, accelerator.sync_gradients
            found = self._go_back(loss, last=last)
            if found is not None:
                self._meet(found.present.any(0).sum().item())

        accelerator.backward = backward
        try:
            yield
        finally:
            del accelerator.backward

    def _go_back(self, loss: Tensor, *, last: bool) -> Measured | None:
        """The backward pass of a micro-batch, the last of its step or not."""
        return self.surgeon.backward(
            loss / self.accelerator.gradient_accumulation_steps,
            told=self._take_told() if last else None,
            accumulate=not last,
            scaler=self.accelerator.scaler,
        )

    def _meet(self, tasks: float) -> None:
        """Say so, where steps never hold two tasks."""
        if self._apart is None:
            return
        self._apart = None if tasks > 1 else self._apart + 1
        if self._apart == APART:
            warnings.warn(
                f"none of the first {APART} steps held rows of two tasks, so no two gradients could be compared:"
                " shuffle the data, or let gradient_accumulation_steps put batches of several tasks into a step.",
                OrthoLoraWarning,
                stacklevel=2,
            )

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
        for key in mixture.KEYS if isinstance(inputs, Mapping) else ():
            inputs.pop(key, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    @torch.no_grad()
    def _look(self, model: nn.Module, inputs: dict[str, Any], batch: Examples, *args: Any, **kwargs: Any) -> bool:
        """Whether the loss is a sum over the tasks' examples: else a gradient's share is not a task's own."""
        if self.accelerator.num_processes > 1:  # ranks may hold other tasks, and would wait for each other
            return True

        def loss_of(some: dict[str, Any]) -> float:
            found = super(Watched, self).compute_loss(model, some, *args, **kwargs)
            return float(found[0] if isinstance(found, tuple) else found)

        with self._unnoticed(), torch.random.fork_rng(), self.surgeon.collector.looking_away():
            model.eval()
            try:
                whole = loss_of(dict(inputs))
                each = torch.tensor([loss_of(batch.of_task(task, inputs)) for task in batch.present])
            finally:
                model.train()
        # A mean over examples, or over labels, or a sum, divided by what the step holds.
        shares = [[1.0] * len(each), batch.shares([1.0] * len(batch.tasks))]
        if any(counted := batch.counted(shifted=self._shifts_labels) or []):
            shares.append(batch.shares(counted))
        sums = [float(each @ torch.tensor(share)) for share in shares]
        error = min(abs(found - whole) for found in sums) / max(abs(whole), 1e-6)
        parameter = next(model.parameters())
        exact = parameter.dtype == torch.float32 and not torch.is_autocast_enabled(parameter.device.type)
        if error <= (1e-3 if exact else 3e-2):
            return True
        warnings.warn(
            f"the loss of a batch of {self.kind.__name__} is not that of its tasks' rows by themselves: it is"
            f" {whole:.4g}, and theirs come to {sums[-1]:.4g}. Rows of other tasks have a part in it,"
            " as negatives or by a loss that balances experts. What is measured of a task is its rows' share in the"
            " gradient; for the gradient of its own loss give each task batches of its own, as OrthoLoRATrainer does.",
            OrthoLoraWarning,
            stacklevel=2,
        )
        return False


@contextmanager
def _told_here() -> Iterator[None]:
    """Name the way that is exact to whom trains with a trainer."""
    try:
        yield
    except OwnPassError as error:
        raise error.said_to("train with OrthoLoRATrainer, which gives each task a pass of its own") from error


class Generating(Watched):
    """Where answers are generated, shuffled and used again: the prompts' tasks go with them."""

    def carry(self, column: mixture.TaskColumn) -> None:
        self._column = column

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if all(self._column.name in row for row in inputs):
            prompts = [repr(row["prompt"]) for row in inputs]
            known = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
            found[mixture.KEY] = torch.tensor([self._column.place(row[self._column.name]) for row in inputs])
            found[mixture.GROUPS] = torch.tensor([known[prompt] for prompt in prompts])
        return found

    def _loss_alone(self, inputs: dict[str, Any], examples: int) -> Tensor:
        """Of tokens, where the loss is a mean over those of all answers."""
        if "num_items_in_batch" not in inputs or getattr(self, "loss_type", None) not in OVER_TOKENS:
            return super()._loss_alone(inputs, examples)
        tokens = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).sum()
        mean, one = super()._loss_alone(inputs | {"num_items_in_batch": tokens * self.accelerator.num_processes}, 1)
        return torch.stack([mean, one]) * tokens


class Due(TrainerCallback):
    """Tells a trainer that a step begins."""

    def __init__(self, trainer: Watched) -> None:
        self.trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.take_snapshot_if_due()


def _labels_of(row: Row) -> float:
    """What an example has of its batch's mean loss: labels that count, or one."""
    labels = row.get("labels")
    if isinstance(labels, Tensor):
        labels = labels.tolist()
    return float(sum(label != -100 for label in labels)) if isinstance(labels, list) else 1.0


def _rows_of(args: Any, given: Mapping[str, Any]) -> int:
    """How many rows a model is given."""
    named = [given.get(name) for name in _INPUTS]
    tensors = [value for value in [*named, *args, *given.values()] if isinstance(value, Tensor) and value.ndim]
    return len(tensors[0]) if tensors else 0
