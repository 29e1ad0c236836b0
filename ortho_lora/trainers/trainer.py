"""`transformers.Trainer` for one adapter and several tasks."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, get_last_checkpoint
from transformers.training_args import OptimizerNames

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.ending import ending_of
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery import distributed
from ortho_lora.surgery.methods import Branches, OnNonfinite, Order, Rule, Scope
from ortho_lora.surgery.surgeon import OrthoLoRA
from ortho_lora.trainers import versions
from ortho_lora.trainers.task_dataset import Example, TaskCollator, TaskDataset

log = logging.getLogger(__name__)

STATE_NAME = "ortho_lora.pt"
"""In a checkpoint, beside the random state: what `OrthoLoRA` needs to go on."""


class OrthoLoRATrainer(Trainer):
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

    A step draws `per_device_train_batch_size` examples of EVERY task; an epoch is one pass over the longest dataset.
    `loss` in the logs is the weighted sum of the tasks' losses, `loss_<task>` each of them, all means since the last
    log. A model with a head for each task can take the task from a column of the datasets.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Example]], Any] | None = None,
        train_dataset: Mapping[str, Dataset[Example]] | None = None,
        eval_dataset: Mapping[str, Dataset[Example]] | Dataset[Example] | None = None,
        *,
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
            method: with `rule`, `scope`, `branches`, `order`, `loss_weights`, `record_every` and `on_nonfinite` as in
                `OrthoLoRA`.
            recorder: of one training. It is closed at the end as finished, failed or stopped (by Ctrl-C); one that is
                resumed from a checkpoint goes on with it, in another process with `Recorder(..., resume=True)`.
            of_trainer: further arguments of `Trainer`.

        Raises:
            OrthoLoraError: datasets, a method or a kind of training that this trainer cannot use.
        """
        self.recorder = recorder
        self._surgery: dict[str, Any] = {
            "method": method, "rule": rule, "scope": scope, "branches": branches, "order": order,
            "loss_weights": loss_weights, "record_every": record_every, "on_nonfinite": on_nonfinite,
        }  # fmt: skip
        self._attempts = 0  # at finding a batch size, of the training under way
        self._resumed: Path | None = None  # the checkpoint that the training under way goes on from
        datasets = _checked(train_dataset)
        args = TrainingArguments() if args is None else args
        versions.refuse_unknown()
        _refuse(args)
        seed = args.seed if args.data_seed is None else args.data_seed
        joined = TaskDataset(datasets, None if versions.sampling(args) == "sequential" else seed)
        super().__init__(
            model,
            args,
            data_collator,
            joined,
            dict(eval_dataset) if isinstance(eval_dataset, Mapping) else eval_dataset,
            **of_trainer,
        )
        self._refuse_launched()
        self._shifts_labels = versions.shifts_labels(self.model)
        self.add_callback(_Begin(self))
        # Says before any training what is wrong with the model or the method; each training starts another.
        self.surgeon = OrthoLoRA(cast(nn.Module, self.model), list(datasets), seed=args.seed, **self._surgery)
        self.surgeon.remove()
        self._since_log = torch.zeros(2, len(datasets), dtype=torch.float64)  # sums of the tasks' losses, steps
        self._weights: deque[dict[str, list[float]]] = deque()  # of the examples of each micro-batch to come

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer.train` does, and say in the record how it went."""
        self._attempts = 0
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(cast(str, self.args.output_dir)) or True
        self._resumed = None if isinstance(resume_from_checkpoint, bool | None) else Path(resume_from_checkpoint)
        with self._recording():
            try:
                return super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                self.surgeon.remove()

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
        items = {
            task: super(OrthoLoRATrainer, self).get_batch_samples((of[task] for of in batches), len(batches), device)[1]
            for task in tasks
        }
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
                    loss = loss / versions.accumulated(self)
                self.surgeon.backward_part(task, loss, weight=weights.get(task), scaler=self.accelerator.scaler)
                losses.append(self.surgeon.loss_weights[task] * loss.detach())
                del loss  # and its graph, before the next task's is made
        if (every := self.args.torch_empty_cache_steps) and self.state.global_step % every == 0:
            torch.accelerator.empty_cache()
        if self.accelerator.sync_gradients:
            found = self.surgeon.project()
            self._since_log += torch.stack([torch.where(found.given, found.losses, 0), found.given])
        return torch.stack(losses).sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the tasks' losses to the log of a training."""
        if "loss" in logs:
            sums, steps = self._since_log.tolist()
            logs |= {
                f"loss_{task}": total / n for task, total, n in zip(self.surgeon.tasks, sums, steps, strict=True) if n
            }
            self._since_log.zero_()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does; of several tasks `eval_loss` is the weighted sum of theirs, as in training."""
        found = super().evaluate(*args, **kwargs)
        weights = {f"eval_{task}_loss": weight for task, weight in self.surgeon.loss_weights.items()}
        losses = [weight * found[key] for key, weight in weights.items() if key in found]
        if losses and kwargs.get("metric_key_prefix", "eval") == "eval":
            found.setdefault("eval_loss", sum(losses))
        return found

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, and record what a training finds out about a task."""
        found = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        task = metric_key_prefix.removeprefix("eval_")
        recorder = self.surgeon.recorder
        if recorder is not None and self.is_in_train and task in self.surgeon.tasks:
            for key, value in (found.metrics or {}).items():
                metric = key.removeprefix(f"{metric_key_prefix}_")
                if metric != "model_preparation_time" and isinstance(value, Real):
                    recorder.add(
                        "metrics",
                        step=self.state.global_step,
                        split="validation",
                        task=[task],
                        metric=metric,
                        value=value,
                        examples=found.num_samples or 0,
                    )
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
            each = torch.ones(len(labels))
            if labels.ndim > 1 and not labels.is_floating_point():
                counted = labels[..., 1:] if self._shifts_labels else labels
                each = counted.ne(-100).flatten(1).sum(1)
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

    def _begin(self) -> None:
        """Watch the model from here on, where it, its optimizer and the number of steps are final."""
        if self.recorder is not None:
            if self.recorder.begun and self._resumed is None and not self._attempts:
                raise OrthoLoraError(
                    f"recorder: {self.recorder.run_dir} holds a training already: give another one a directory of its"
                    " own (trainer.recorder = Recorder(...)), or None; resume_from_checkpoint goes on with it."
                )
            self.recorder.total = self.state.max_steps
        self.surgeon.remove()  # it has watched an attempt with a larger batch
        self.surgeon = OrthoLoRA(
            self.model_wrapped,
            self.surgeon.tasks,
            seed=self.args.seed,
            optimizer=self.optimizer,
            recorder=self.recorder,
            **self._surgery,
        )
        self._since_log.zero_()
        self._attempts += 1
        if self._resumed is not None:
            self._resume(self._resumed)
        if self._attempts > 1 and self.surgeon.recorder is not None:  # Trainer starts again, and so does the record
            step, size = self.state.global_step, self._train_batch_size
            self.surgeon.recorder.go_on(step)
            self.surgeon.recorder.event(step, "dropped", reason=f"out of memory: again with {size} examples of a task")

    def _resume(self, checkpoint: Path) -> None:
        if (checkpoint / STATE_NAME).is_file():
            self.surgeon.load_state_dict(torch.load(checkpoint / STATE_NAME, weights_only=True))
        else:
            log.warning(
                "%s: no %s in it (a plain Trainer's, or saved with save_only_model): the orders of the tasks start"
                " anew, so the training will not be what it would have been without interruption.",
                checkpoint,
                STATE_NAME,
            )
            self.surgeon.step = self.state.global_step
            if self.surgeon.recorder is not None:
                self.surgeon.recorder.go_on(self.surgeon.step)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:  # all ranks have the same
            torch.save(self.surgeon.state_dict(), Path(output_dir) / STATE_NAME)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Close the record of a training that began."""
        try:
            yield
        except BaseException as error:
            if self.recorder is not None and self._attempts:
                self.recorder.close(*ending_of(error))
            raise
        if self.recorder is not None:
            done, total = self.state.global_step, self.state.max_steps
            self.recorder.close(message="" if done >= total else f"a callback ended it after step {done} of {total}")

    def _refuse_launched(self) -> None:
        """What accelerate was told when the process was launched, and this program cannot see in its arguments."""
        if self.is_deepspeed_enabled:
            raise distributed.refusal("DeepSpeed")
        if self.is_fsdp_enabled:
            raise distributed.refusal("FSDP")
        if self.args.n_gpu > 1:
            raise distributed.refusal("DataParallel (one process, several devices)")
        if versions.is_split(self):
            raise distributed.refusal("tensor, context or sequence parallelism")


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
    if args.deepspeed:
        raise distributed.refusal("DeepSpeed")
    if args.fsdp:
        raise distributed.refusal("FSDP")
    if (sampling := versions.sampling(args)) not in ("random", "sequential"):
        raise OrthoLoraError(
            f"train_sampling_strategy={sampling!r}: an item is one example of each task, which have"
            " lengths of their own: use 'random' or 'sequential'."
        )
    versions.refuse_counting(args)
    optimizer = OptimizerNames(args.optim).value
    if optimizer in ("lomo", "adalomo") or "layerwise" in optimizer:
        raise OrthoLoraError(
            f"optim={optimizer!r} updates weights during the backward pass, before the tasks' gradients are"
            " known: use one that waits for it, as adamw_torch."
        )


class _Begin(TrainerCallback):
    """Tells the trainer that everything is prepared for a training."""

    def __init__(self, trainer: OrthoLoRATrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer._begin()
