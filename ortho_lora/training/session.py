"""Everything that a run trains, step by step."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import get_scheduler

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import State, Status
from ortho_lora.record.snapshots import Snapshot, metric_of
from ortho_lora.surgery.groups import GROUPS
from ortho_lora.surgery.measure import Measured, record_gradients, record_step
from ortho_lora.surgery.nonfinite import Nonfinite, nonfinite, record_nonfinite, sentence
from ortho_lora.surgery.snapshot import Taker, snapshot_steps, unchanged
from ortho_lora.tasks.data import TaskData
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training import adapters, device
from ortho_lora.training.attach import attach, layers_past_examples
from ortho_lora.training.batches import TaskSampler, seed_of
from ortho_lora.training.checkpoint import Checkpoint, Place
from ortho_lora.training.config import Config
from ortho_lora.training.evaluation import Evaluation, evaluation_subsets
from ortho_lora.training.model import MultiTaskModel, load_encoder, outline, use_dropout
from ortho_lora.training.passes import Passes, gradient_mode
from ortho_lora.training.snapshots import Taking, rounds
from ortho_lora.training.texts import texts_of

log = logging.getLogger(__name__)

EVERY = 10
"""Steps between scalars for a logger, which are means over them."""


if TYPE_CHECKING:
    from ortho_lora.training.board import Board


class Training:
    """Everything that a run trains, at one place of its way."""

    def __init__(
        self,
        config: Config,
        tasks: list[TaskData],
        report: Callable[[Status], None],
        stop: threading.Event,
    ) -> None:
        self.config, self.tasks, self.report, self.stop = config, tasks, report, stop
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(seed_of(config.seed, "dropout"))
        self.device = device.choose(config.device)
        self.place = Place()
        self.saved = -1  # step of the last checkpoint
        self.losses: dict[str, float] = {}
        self.recorder: Recorder
        self.board: Board | None = None

        encoder, self.tokenizer = load_encoder(config.model, config.max_length)
        shape = outline(encoder)
        pooling = shape.pooling(config.pooling)
        members = adapters.shared(config)
        self.encoder: PeftModel = attach(
            encoder,
            list(members),
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            target_modules=config.target_modules,
            seed=seed_of(config.seed, "adapter"),
        )
        self.model = MultiTaskModel(
            self.encoder,
            tasks,
            width=shape.width,
            pooling=pooling,
            adapters=config.sharing,
            generators=[torch.Generator().manual_seed(seed_of(config.seed, "heads", task.name)) for task in tasks],
        ).to(self.device)
        self.groups = adapters.watch(self.encoder, members, tasks, config, layers_past_examples(self.encoder))
        self.mode = gradient_mode(config, self.groups)
        self.passes = Passes(config, tasks, self.model, self.tokenizer, self.device, self.mode)
        self.sampler = TaskSampler(tasks, config.batch_size, config.seed)
        self.snapshot_steps = snapshot_steps(config.steps, config.snapshots_taken)
        self.subsets = evaluation_subsets(tasks, config.eval_examples)
        self.evaluation = Evaluation(config, tasks, self.subsets, self.model, self.tokenizer, self.device, stop)
        lora = [block.parameter for group in self.groups for block in group.surgeon.blocks]
        heads = self.model.head_parameters()
        rates = [
            {"params": lora, "lr": config.learning_rate},
            {"params": heads, "lr": config.head_learning_rate},
        ]
        optimizer = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[config.optimizer]
        self.optimizer = optimizer(rates, weight_decay=config.weight_decay)
        self.scheduler = get_scheduler(
            "constant_with_warmup" if config.schedule == "constant" else config.schedule,
            self.optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.steps,
        )
        surgeons = [group.surgeon for group in self.groups]
        self.checkpoint = Checkpoint(
            self.model, self.optimizer, self.scheduler, surgeons, self.sampler, tasks, self.device
        )

    def run(self, recorder: Recorder) -> None:
        config = self.config
        self.recorder = recorder
        if config.log == "tensorboard":
            from ortho_lora.training.board import Board

            self.board = Board(recorder.run_dir, self.place.step)
        try:
            log.info("%s on %s, %s gradients", config.label, self.device, self.mode)
            if config.snapshots > config.snapshots_taken:
                shared = "the tasks share several adapters" if config.groups else "no two tasks share an adapter"
                log.info("no snapshots: %s", shared)
            while not self.stop.is_set():
                if self._evaluation_is_due():
                    self._evaluate()
                    continue  # it may have been stopped
                if self.place.step in self.snapshot_steps and self.place.snapshot != self.place.step:
                    self._take_snapshot()
                    continue
                if config.checkpoint_every and self.place.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if self.place.step == config.steps:
                    break
                self._train_step()
                self.recorder.flush_if_due()
                self._say_progress()
            finished = self.place.evaluated == config.steps
            if config.checkpoint_every:
                self._checkpoint()
            self._say("running" if finished else "stopping", "saving")
            adapters.save(recorder.run_dir, self.encoder, self.groups, self.model, self.tasks)
            self.recorder.flush()
            self._say("finished" if finished else "stopped", "done")
        except BaseException as error:
            # What was measured is kept, and the status says why: the recorder sees to it.
            expected = isinstance(error, OrthoLoraError)  # then the sentence says it all
            log.error("the run failed at step %d: %s", self.place.step, error, exc_info=not expected)
            raise
        finally:
            if self.board is not None:
                self.board.close()

    def _train_step(self) -> None:
        started = time.perf_counter()
        rate = self.scheduler.get_last_lr()[0]
        step, skips = self.place.step, self.config.on_nonfinite == "skip"
        measured, found = self.advance(self.sampler.next())
        seconds = time.perf_counter() - started
        self.place.step_seconds += seconds

        self.losses = {}
        for group, of_group, problems in zip(self.groups, measured, found, strict=True):
            names = group.surgeon.tasks
            self.losses |= dict(zip(names, of_group.losses.tolist(), strict=True))
            record_step(self.recorder, step, names, of_group, learning_rate=rate, seconds=seconds)
            if step % self.config.record_every == 0:
                record_gradients(self.recorder, step, group.surgeon.recording.layout, of_group)
            record_nonfinite(self.recorder, step, problems, skipped=skips)
            if problems:
                log.warning("%s", sentence(problems, f"at step {step}"))
        if not skips and (problems := [of for of_group in found for of in of_group]):
            self._say("running", "training")
            raise OrthoLoraError(
                f"{sentence(problems, f'at step {step}')}: try a lower learning_rate than"
                f" {self.config.learning_rate:g}, warmup_steps or clip; on_nonfinite: skip leaves such steps out."
            )
        self.place.step += 1
        if self.board is not None and (self.place.step % EVERY == 0 or self.place.step == self.config.steps):
            for group in self.groups:
                self.board.add(self.place.step, group.surgeon.scalars())

    def advance(
        self, indices: Sequence[Sequence[int]], *, without: str | None = None, chance: int | None = None
    ) -> tuple[list[Measured], list[list[Nonfinite]]]:
        """Take an optimizer step; none where something is not finite, unless such steps are skipped.

        Args:
            indices, without, chance: as of `measure`.

        Returns:
            What was measured of each group, and what of it was not finite.
        """
        measured = self.measure(indices, without=without, chance=chance)
        found = [
            nonfinite(group.surgeon.tasks, of_group) for group, of_group in zip(self.groups, measured, strict=True)
        ]
        for group, problems in zip(self.groups, found, strict=True):
            shared = [block.parameter for block in group.surgeon.blocks]
            owners = dict.fromkeys(self.model.owners[task] for task in group.tasks)  # in order: norms are rounded sums
            heads = [parameter for owner in owners for parameter in self.model.heads[owner].parameters()]
            if problems:  # nothing for the optimizer to do
                for parameter in [*shared, *heads]:
                    parameter.grad = None
            elif self.config.clip is not None:
                torch.nn.utils.clip_grad_norm_([*shared, *heads], self.config.clip)
        if self.config.on_nonfinite == "skip" or not any(found):
            self.optimizer.step()
            self.scheduler.step()
        return measured, found

    def measure(
        self, indices: Sequence[Sequence[int]], *, without: str | None = None, chance: int | None = None
    ) -> list[Measured]:
        """Set the gradients of adapters and heads to those of one batch of every task, with dropout as in training.

        Args:
            indices: by task, of its training examples.
            without: a task that takes no part in the step. What drops out of the others' examples is the same.
            chance: seed of dropout; None: as the generator stands.

        Returns:
            What was measured of each group.
        """
        use_dropout(self.model, encoder=self.config.encoder_dropout)
        self.optimizer.zero_grad()
        return [
            self.passes.measure(group, indices, without=without, chance=chance)
            for group in adapters.in_turn(self.encoder, self.groups)
        ]

    def _evaluation_is_due(self) -> bool:
        step = self.place.step
        return step != self.place.evaluated and (step % self.config.eval_every == 0 or step == self.config.steps)

    def _evaluate(self) -> None:
        started = time.perf_counter()
        self._say("running", "evaluating")
        self.model.eval()
        for group in adapters.in_turn(self.encoder, self.groups):
            if not self.evaluation.record(self.recorder, self.place.step, group.tasks):
                return
        self.place.evaluated = self.place.step
        self.place.evaluation_seconds = time.perf_counter() - started
        self.recorder.flush()
        if self.board is not None:
            self.board.add_metrics(self.place.step, self.recorder.metrics)

    def _take_snapshot(self) -> None:
        """Take a snapshot; none where the run is stopped meanwhile."""
        started = time.perf_counter()
        self._say("running", "snapshot")
        batches, held_out = self.config.snapshot_batches, self.config.snapshot_held_out
        found = self.snapshot(batches, self.config.seed, self._say_progress, held_out)
        if found is not None:
            self.recorder.add_snapshot(self.place.step, found)
            self.recorder.flush()
            self.place.snapshot = self.place.step
            self.place.snapshot_seconds = time.perf_counter() - started

    def snapshot(
        self, batches: int, seed: int, sign: Callable[[], object], held_out: int | None = None
    ) -> Snapshot | None:
        """How the tasks' mean gradients agree here, and with those of held-out texts; nothing of the training changes.

        Args:
            batches: of every task.
            seed: of the groups of texts, of the draws, and of dropout.
            sign: called before each batch.
            held_out: batches of validation texts, as of `rounds`.

        Returns:
            None: it was stopped.

        Raises:
            OrthoLoraError: a loss or gradient is not finite.
        """
        with self.taking(seed, held_out=held_out != 0) as taking:
            size, step = self.config.batch_size, self.place.step
            turns = rounds(self.tasks, batches, size, seed=seed, step=step, held_out=held_out)
            for turn in chain.from_iterable(turns):
                if self.stop.is_set():
                    return None
                sign()
                taking.take(turn)
            return self.with_texts(taking.taker.look(), taking, seed, sign)

    def with_texts(self, found: Snapshot, taking: Taking, seed: int, sign: Callable[[], object]) -> Snapshot | None:
        """A snapshot that was found, with single texts where it has targets; result and arguments as of `snapshot`."""
        if not found.targets:
            return found
        adamw, most = metric_of(self.config.optimizer) == "adamw", self.config.snapshot_texts
        texts = []
        for of_target in texts_of(taking, self.tasks, most, adamw=adamw, seed=seed, sign=sign):
            if self.stop.is_set():
                return None
            texts.append(of_target)
        return replace(found, texts=tuple(texts))

    @contextmanager
    def taking(self, seed: int, *, held_out: bool = True) -> Iterator[Taking]:
        """A snapshot to be taken turn by turn; all that it changes is put back at the end.

        Args:
            seed: as of `rounds`.
            held_out: whether there are turns of validation texts.
        """
        surgeon, dropout = self.groups[0].surgeon, self.config.encoder_dropout
        with unchanged(self.model) as put_back, surgeon.collector.looking_away():
            taker = Taker(
                surgeon.blocks, surgeon.tasks, surgeon.tasks if held_out else (), GROUPS, optimizer=self.optimizer,
                loss_weights=surgeon.loss_weights, seed=seed,
            )  # fmt: skip
            chance = seed_of(seed, "snapshot", "dropout", str(self.place.step))
            yield Taking(taker, self.model, self.passes.loss, put_back, encoder_dropout=dropout, seed=chance)

    def _checkpoint(self) -> None:
        if self.saved != self.place.step:
            self.recorder.flush()  # first, so that a checkpoint is never ahead of the record
            self.checkpoint.save(self.recorder.run_dir, self.place, self.losses)
            self.saved = self.place.step

    def restore(self, run_dir: Path) -> None:
        """Be where the run's last checkpoint was."""
        self.place, self.losses = self.checkpoint.restore(run_dir)
        self.saved = self.place.step

    def _say(self, state: State, phase: str) -> None:
        eta = self._eta() if state == "running" and phase != "saving" else None
        self.place.peak_memory_bytes = max(self.place.peak_memory_bytes, device.peak_memory(self.device))
        self.report(
            self.recorder.status(
                state,
                step=self.place.step,
                phase=phase,
                eta_seconds=eta,
                losses=self.losses,
                peak_memory_bytes=self.place.peak_memory_bytes,
            )
        )

    def _say_progress(self) -> None:
        self.report(self.recorder.progress(self.place.step, self.losses, self._eta()))

    def _eta(self) -> float | None:
        if not self.place.step:
            return None
        left = self.config.steps - self.place.step
        return (
            left * self.place.step_seconds / self.place.step
            + (left // self.config.eval_every + 1) * self.place.evaluation_seconds
            + sum(step > self.place.snapshot for step in self.snapshot_steps) * self.place.snapshot_seconds
        )


def tasks_of(config: Config) -> list[TaskData]:
    """The tasks that a run of this configuration trains on. Raises as `load_tasks`."""
    return load_tasks(config.tasks, config.seed, config.selection_share)
