"""`transformers.Trainer` for one adapter and several tasks."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery.arguments import weights_of
from ortho_lora.surgery.methods import Branches, OnNonfinite, Order, Rule, Scope
from ortho_lora.trainers import losses, versions
from ortho_lora.trainers.inside import SurgeonInside, refuse_args
from ortho_lora.trainers.task_dataset import Example, Sampling, TaskCollator, TaskDataset


class OrthoLoRATrainer(SurgeonInside, Trainer):
    """Trains a PEFT model on several tasks at once, with `OrthoLoRA` in place of the backward pass.

    Everything else is `transformers.Trainer`: accumulation, checkpoints, callbacks, logging, evaluation::

        trainer = OrthoLoRATrainer(
            model=peft_model,
            args=TrainingArguments("out", per_device_train_batch_size=8, ...),
            train_dataset={"mnli": mnli, "qqp": qqp},
            eval_dataset={"mnli": mnli_validation, "qqp": qqp_validation},
            recorder=Recorder("runs/mine"),
        )
        trainer.train()

    A step draws `per_device_train_batch_size` examples of EVERY task, unless `sampling` says otherwise; an epoch is one
    pass over the longest dataset. `loss` in the logs is the weighted sum of the tasks' losses, and so is `eval_loss`,
    for `load_best_model_at_end` and early stopping; `OrthoLoRA.scalars` stand beside it, `loss/<task>` and others, all
    means since the last log. A model with a head for each task can take the task from a column of the datasets.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Example]], Any] | None = None,
        train_dataset: Mapping[str, Dataset[Example]] | None = None,
        eval_dataset: Mapping[str, Dataset[Example]] | Dataset[Example] | None = None,
        *,
        sampling: Sampling = "equal",
        reduction: Literal["sum", "mean"] = "sum",
        method: str = "ortho-lora",
        rule: Rule | None = None,
        scope: Scope | None = None,
        branches: Branches | None = None,
        order: Order = "random",
        loss_weights: Mapping[str, float] | None = None,
        recorder: Recorder | None = None,
        record_every: int = 1,
        on_nonfinite: OnNonfinite = "stop",
        **of_trainer: Any,
    ) -> None:
        """Take what `Trainer` takes, and what `OrthoLoRA` takes.

        Args:
            model: a PEFT model with LoRA; or give `model_init`.
            args: as for `Trainer`; `args.seed` also seeds the orders of the tasks.
            data_collator: makes a batch of examples of one task.
            train_dataset: by task; each a dataset with a length, whose columns the model does not know are left out.
            eval_dataset: by task, for metrics `eval_<task>_<metric>`; or one dataset.
            sampling: how many examples of each task a step holds: `equal`, as many; `proportional` to the lengths of
                the datasets; or a temperature T, in proportion to length ** (1 / T), so that 1 is proportional and
                large ones are equal. All tasks together have `per_device_train_batch_size` for each of them in the
                mean, and an epoch passes through every dataset at least once; a task may be missing from a step.
            reduction: of the tasks' losses: their `sum`, or their `mean`, a T-th of it, in training and evaluation.
            method: with `rule`, `scope`, `branches`, `order`, `loss_weights`, `record_every` and `on_nonfinite` as in
                `OrthoLoRA`.
            recorder: of one training. It is closed at the end as finished, failed or stopped (by Ctrl-C); one that is
                resumed from a checkpoint goes on with it, in another process with `Recorder(..., resume=True)`.
            of_trainer: further arguments of `Trainer`.

        Raises:
            OrthoLoraError: datasets, a method or a kind of training that this trainer cannot use.
        """
        self.recorder = recorder
        datasets = _checked(train_dataset)
        if reduction not in ("sum", "mean"):
            raise OrthoLoraError(f"reduction: {reduction!r} given, expected 'sum' or 'mean'.")
        if reduction == "mean":
            weights = weights_of(list(datasets), loss_weights)
            loss_weights = {task: weight / len(datasets) for task, weight in weights.items()}
        self._surgery: dict[str, Any] = {
            "method": method, "rule": rule, "scope": scope, "branches": branches, "order": order,
            "loss_weights": loss_weights, "record_every": record_every, "on_nonfinite": on_nonfinite,
        }  # fmt: skip
        args = TrainingArguments() if args is None else args
        versions.refuse_unknown()
        _refuse(args)
        seed = args.seed if args.data_seed is None else args.data_seed
        joined = TaskDataset(datasets, None if versions.sampling(args) == "sequential" else seed, sampling)
        if sampling != "equal" and args.world_size > 1:
            raise OrthoLoraError(
                f"sampling: {sampling!r} given on {args.world_size} processes, which could not agree on the tasks of a"
                " step: expected 'equal' there; loss_weights say which task counts more."
            )
        super().__init__(
            model,
            args,
            data_collator,
            joined,
            dict(eval_dataset) if isinstance(eval_dataset, Mapping) else eval_dataset,
            **of_trainer,
        )
        self._shifts_labels = versions.shifts_labels(self.model)
        self.prepare(list(datasets))
        self._parts: dict[str, float] = {}  # of the step's micro-batches, by how many hold a task
        self._weights: deque[dict[str, list[float]]] = deque()  # of the examples of each micro-batch to come

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by task, of the longest task's length."""
        loader = super().get_train_dataloader()
        if not isinstance(loader.collate_fn, TaskCollator):
            raise versions.unknown("does not collate with what _get_collator_with_removed_columns returns")
        if not len(loader):
            raise OrthoLoraError(
                f"train_dataset: the longest task has {len(cast(Sized, self.train_dataset))} examples, too few for a"
                f" batch of {self._train_batch_size} on each process, and dataloader_drop_last drops what is less:"
                " lower per_device_train_batch_size, or leave dataloader_drop_last out."
            )
        return loader

    def get_batch_samples(  # type: ignore[override]
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The batches of a step, and for each task what its loss is divided by over all of them and all ranks."""
        batches = list(islice(epoch_iterator, num_batches))
        tasks = self.surgeon.tasks
        of_tasks = {task: [of[task] for of in batches if task in of] for task in tasks}
        items = {
            task: super(OrthoLoRATrainer, self).get_batch_samples(iter(of), len(of), device)[1]
            for task, of in of_tasks.items()
        }
        self._parts = {task: len(batches) / len(of) for task, of in of_tasks.items() if of}
        self._weights = deque(self._weights_of(batch, items) for batch in batches)
        return batches, items

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Forward and backward of each task's batch in turn, and after the last batch of a step the projection.

        Args:
            model: as prepared by accelerate.
            inputs: a batch of each task.
            num_items_in_batch: by task, of `get_batch_samples`; None: a loss is the mean over its batch.

        Returns:
            The weighted sum of the tasks' losses, without a graph.
        """
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # of optimizers without a schedule
            cast(Any, self.optimizer).train()
        losses = []
        weights = self._weights.popleft() if self._weights else {}
        # The surgeon averages over the ranks before it projects: what DistributedDataParallel would send is not needed.
        with self.accelerator.no_sync(model):
            for task, batch in inputs.items():
                items = None if num_items_in_batch is None else num_items_in_batch[task]
                with self.compute_loss_context_manager():
                    prepared = self._prepare_inputs(batch)
                    loss = cast(Tensor, self.compute_loss(model, prepared, num_items_in_batch=items))
                if not versions.is_divided(self, items):
                    loss = loss / versions.accumulated(self) * self._parts.get(task, 1.0)
                self.surgeon.backward_part(task, loss, weight=weights.get(task), scaler=self.accelerator.scaler)
                losses.append(self.surgeon.loss_weights[task] * loss.detach())
                del loss  # and its graph, before the next task's is made
        if (every := self.args.torch_empty_cache_steps) and self.state.global_step % every == 0:
            torch.accelerator.empty_cache()
        if self.accelerator.sync_gradients:
            self.surgeon.project()
        return torch.stack(losses).sum()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does; of several tasks `eval_loss` is the weighted sum of theirs, as in training."""
        found = super().evaluate(*args, **kwargs)
        weights = {f"eval_{task}_loss": weight for task, weight in self.surgeon.loss_weights.items()}
        losses = [weight * found[key] for key, weight in weights.items() if key in found]
        if losses and kwargs.get("metric_key_prefix", "eval") == "eval":
            found.setdefault("eval_loss", sum(losses))
        return found

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of all tasks."""
        return sum(super(OrthoLoRATrainer, self).floating_point_ops(batch) for batch in inputs.values())

    def _weights_of(self, batch: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, list[float]]:
        """By task, what share of its loss in this step each example carries; without the tasks where nobody knows.

        Known where the loss is the model's own: a mean over the tokens of a sequence of labels, else over examples.
        """
        if self.compute_loss_func is not None or type(self).compute_loss is not Trainer.compute_loss:
            return {}
        weights = {}
        for task, of_task in batch.items():
            labels = of_task.get("labels") if isinstance(of_task, Mapping) else None
            if not isinstance(labels, Tensor) or not labels.ndim:
                continue
            each = losses.counted(labels, shifted=self._shifts_labels)
            weights[task] = (
                each if versions.is_divided(self, items[task]) else each / each.sum().clamp(min=1)
            ).tolist()
        return weights

    # What follows steps into the inner life of Trainer: see `versions`.

    def _get_collator_with_removed_columns(
        self, data_collator: Callable[[list[Example]], Any], description: str | None = None
    ) -> Callable[[list[Any]], Any]:
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        return cast(Any, TaskCollator(collator)) if (description or "").lower() == "training" else collator

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        for batch in inputs.values():
            super()._track_num_input_tokens(batch)


def _checked(datasets: object) -> Mapping[str, Dataset[Example]]:
    if not isinstance(datasets, Mapping):
        raise OrthoLoraError(
            f"train_dataset: {type(datasets).__name__} given, expected a dict of datasets by task, as in"
            ' {"mnli": dataset, "qqp": dataset}; for one task {"task": dataset}.'
        )
    if not datasets:
        raise OrthoLoraError('train_dataset: an empty dict given, expected datasets by task: {"task": dataset, ...}.')
    for task, dataset in datasets.items():
        if not isinstance(task, str):
            raise OrthoLoraError(f"train_dataset: task {task!r} given, expected a name.")
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise OrthoLoraError(
                f"train_dataset: task {task!r} is a {type(dataset).__name__}, expected a dataset with a length whose"
                " examples can be had by index: a stream cannot start again beside a longer one."
            )
        if not len(dataset):
            raise OrthoLoraError(f"train_dataset: task {task!r} has no examples, expected at least one.")
    return datasets


def _refuse(args: TrainingArguments) -> None:
    """Say what cannot work, before a model is touched."""
    refuse_args(args)
    if (sampling := versions.sampling(args)) not in ("random", "sequential"):
        raise OrthoLoraError(
            f"train_sampling_strategy={sampling!r}: an item is one example of each task, which have"
            " lengths of their own: use 'random' or 'sequential'."
        )
    versions.refuse_counting(args)
