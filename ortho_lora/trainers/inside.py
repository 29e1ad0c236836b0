"""What a `transformers.Trainer` with a surgeon inside does: begin, log, go on from a checkpoint, end a record."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, get_last_checkpoint
from transformers.training_args import OptimizerNames

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.ending import ending_of
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery import distributed
from ortho_lora.surgery.scalars import MOST_TASKS
from ortho_lora.surgery.surgeon import OrthoLoRA
from ortho_lora.trainers import versions

log = logging.getLogger(__name__)

_LEFT_OUT = "FSDP_IGNORED_MODULES"
"""Where accelerate finds what is not sharded."""
STATE_NAME = "ortho_lora.pt"
"""In a checkpoint, beside the random state: what `OrthoLoRA` needs to go on."""

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class SurgeonInside(_Base):
    """Stands before a kind of Trainer among the bases of a class."""

    recorder: Recorder | None
    surgeon: OrthoLoRA
    _surgery: dict[str, Any]  # what OrthoLoRA is made with
    _attempts: int  # at finding a batch size, of the training under way
    _resumed: Path | None  # the checkpoint that the training under way goes on from
    _log_pairs: bool | None = None

    def prepare(self, tasks: list[str]) -> None:
        """Say before any training what is wrong with the model, the method or the training; each starts a surgeon."""
        self._attempts, self._resumed = 0, None
        refuse_args(self.args)
        self._refuse_launched()
        self.surgeon = OrthoLoRA(cast(torch.nn.Module, self.model), tasks, seed=self.args.seed, **self._surgery)
        self.surgeon.remove()
        self.add_callback(_Begin(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as ever, and say in the record how it went."""
        self._attempts = 0
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(cast(str, self.args.output_dir)) or True
        self._resumed = None if isinstance(resume_from_checkpoint, bool | None) else Path(resume_from_checkpoint)
        with self._recording():
            try:
                return super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                self.surgeon.remove()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the surgeon tells of the steps since the last log of a training."""
        if "loss" in logs:
            logs |= self.surgeon.scalars(pairs=self._logs_pairs)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as ever, and record what a training finds out about a task: of an `eval_dataset` by tasks."""
        found = super().evaluation_loop(*args, **kwargs)
        prefix = str(kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval"))
        task = prefix.removeprefix("eval_")
        recorder = self.surgeon.recorder
        if recorder is not None and self.is_in_train and task in self.surgeon.tasks:
            for key, value in (found.metrics or {}).items():
                metric = key.removeprefix(f"{prefix}_")
                if metric != "model_preparation_time" and isinstance(value, int | float):
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

    @property
    def _logs_pairs(self) -> bool:
        return self._log_pairs if self._log_pairs is not None else len(self.surgeon.tasks) <= MOST_TASKS

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
            plugin = self.accelerator.state.fsdp_plugin
            if plugin.fsdp_version != 2:
                raise distributed.refusal("FSDP of version 1")
            if plugin.ignored_modules is None:
                raise distributed.trained_sharded()
        if self.args.n_gpu > 1:
            raise distributed.refusal("DataParallel (one process, several devices)")
        if versions.is_split(self):
            raise distributed.refusal("tensor, context or sequence parallelism")

    # What follows steps into the inner life of Trainer: see `versions`.

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:  # all ranks have the same
            torch.save(self.surgeon.state_dict(), Path(output_dir) / STATE_NAME)


def refuse_args(args: TrainingArguments) -> None:
    """Say what cannot work.

    Raises:
        OrthoLoraError: gradients would be sharded, or weights change before all gradients are there.
    """
    if args.deepspeed:
        raise distributed.refusal("DeepSpeed")
    if args.fsdp and not os.environ.get(_LEFT_OUT):
        raise distributed.trained_sharded()
    optimizer = OptimizerNames(args.optim).value
    if optimizer in ("lomo", "adalomo") or "layerwise" in optimizer:
        raise OrthoLoraError(
            f"optim={optimizer!r} updates weights during the backward pass, before the tasks' gradients are"
            " known: use one that waits for it, as adamw_torch."
        )


class _Begin(TrainerCallback):
    """Tells the trainer that everything is prepared for a training."""

    def __init__(self, trainer: SurgeonInside) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer._begin()
