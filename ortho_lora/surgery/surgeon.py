"""Gradient surgery in anyone's training loop: in place of `loss.backward()`, measure, project and record."""

import logging
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.surgery import arguments, distributed
from ortho_lora.surgery.blocks import blocks, check_same, is_compiled, trained
from ortho_lora.surgery.canary import Canary
from ortho_lora.surgery.gradients import Collector
from ortho_lora.surgery.halves import Weights, rows_of, rows_of_one
from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.methods import Branches, OnNonfinite, Order, Rule, Scope
from ortho_lora.surgery.nonfinite import nonfinite, record_nonfinite, settle
from ortho_lora.surgery.projection import all_orders, check_rule
from ortho_lora.surgery.quantised import keep_differentiable
from ortho_lora.surgery.recording import Recording
from ortho_lora.surgery.scalars import Scalars
from ortho_lora.surgery.snapshot import Drawn, snapshot
from ortho_lora.surgery.step import Step, weighted
from ortho_lora.surgery.streaming import Streaming
from ortho_lora.surgery.sums import BYTES
from ortho_lora.surgery.update import Projector
from ortho_lora.surgery.verification import Verification

log = logging.getLogger(__name__)


class OrthoLoRA:
    """Collects the tasks' gradients of every LoRA matrix, projects conflicts apart, and leaves the result in `.grad`.

    Each task's own graph, one backward pass a task (works for every PEFT LoRA layer)::

        surgeon = OrthoLoRA(model, ["mnli", "qqp"], recorder=Recorder("runs/mine"))
        surgeon.backward({"mnli": loss_a, "qqp": loss_b})
        optimizer.step()
        optimizer.zero_grad()

    One batch that mixes tasks, one backward pass for all of them (plain LoRA on linear layers)::

        with surgeon.mixed_batch(task_of_example):
            losses = ...  # of one forward pass: the tasks' own losses, or their sum
            surgeon.backward(losses)

    Parameters outside the adapter (heads, `modules_to_save`) take the plain sum of the tasks' gradients. With
    `method="joint"` everything does: `.grad` is bit for bit that of plain training, and only the record is added.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        method: str = "ortho-lora",
        *,
        rule: Rule | None = None,
        scope: Scope | None = None,
        branches: Branches | None = None,
        order: Order = "random",
        seed: int = 0,
        loss_weights: Mapping[str, float] | None = None,
        adapter: str | None = None,
        whole: Container[str] = (),
        optimizer: torch.optim.Optimizer | None = None,
        recorder: Recorder | None = None,
        record_every: int = 1,
        on_nonfinite: OnNonfinite | None = "stop",
    ) -> None:
        """Watch a model.

        Args:
            model: holds PEFT LoRA layers; may be wrapped in DistributedDataParallel, and what is frozen be sharded by
                `fully_shard`.
            tasks: their names.
            method: a name in `ortho_lora.surgery.methods.METHODS`; `rule`, `scope` and `branches` replace parts of it.
            order: in which tasks are taken: `random` (drawn anew each step), `fixed`, or `mean` over all orders.
            seed: of the random orders; the same on all ranks.
            loss_weights: factors on the tasks' losses; 1 by default.
            adapter: name of the adapter; by default the active one.
            whole: paths of layers whose gradient cannot be taken apart by examples, as
                `ortho_lora.training.attach.layers_past_examples` finds them.
            optimizer: whose learning rate is recorded.
            recorder: where to record; None: nowhere.
            record_every: steps between records of gradients; losses are recorded in every step.
            on_nonfinite: what to do where a loss or gradient is not finite: `stop` with an error, or `skip` the step:
                `.grad` of the model's parameters, and of the optimizer's, is None. A step whose loss was scaled is left
                to the scaler, which skips it. None: whoever calls looks for himself.

        Raises:
            OrthoLoraError: there is no such method, no LoRA, or a kind of training that shards gradients.
        """
        self.tasks = arguments.names_of(tasks)
        self.loss_weights = arguments.weights_of(self.tasks, loss_weights)
        self.method = arguments.method_of(method, rule, scope, branches)
        arguments.check_order(order)
        arguments.check_whole("record_every", record_every, 1)
        arguments.check_whole("seed", seed, 0)
        check_rule(self.method.rule)
        self.order, self.optimizer, self.on_nonfinite = order, optimizer, on_nonfinite
        if order == "mean":
            all_orders(len(tasks))  # refuses too many
        distributed.refuse_sharded(model)
        keep_differentiable(model)
        self.model, self.blocks = model, blocks(model, adapter, whole)
        distributed.align(trained(model))
        self.recording = Recording(self.blocks, self.tasks, optimizer, record_every)
        self.compiled = is_compiled(model)
        self.collector = Collector(self.blocks, len(tasks), watch=not self.compiled)
        self.verification = Verification(self.collector, self.tasks, waits=distributed.is_sharded(model))
        self.projector = Projector(self.blocks, len(tasks), self.method)
        self.streaming = Streaming(model, self.collector, self.projector)
        self._scalars = Scalars(self.tasks, projects=self.method.rule != "sum")
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.canary = Canary(self.blocks)
        self.collector.on_foreign = self.canary.foreign
        self._weighed = False  # whether somebody has said what examples weigh
        self._now = self._new_step()
        self.recorder = recorder if distributed.is_first() else None
        if self.recorder is not None:
            name = self.recorder.run_dir.name
            who = self.recording.identity(name, self.method, order, seed, self.loss_weights, compiled=self.compiled)
            self.recorder.begin(who)

    def reset(self, reason: str = "by hand") -> None:
        """Drop the step under way, if any: what was collected of it, and every `.grad` of the model.

        The next `backward` begins the step anew, as if the dropped passes had not been: the count of steps and the
        generator of orders stand where they stood. A pass that raises drops its step by itself, and so do gradients
        that were set to zero between two micro-batches. The record says that a step was dropped.
        """
        if not self._now.begun:
            return
        self._now.undo()
        self.collector.reset()
        for parameter in trained(self.model):
            parameter.grad = None
        self._now = self._new_step()
        log.warning("step %d was dropped: %s", self.step, reason)
        if self.recorder is not None:
            self.recorder.event(self.step, "dropped", reason=reason)

    @contextmanager
    def mixed_batch(
        self,
        task_of_example: Sequence[int | str] | Tensor,
        half_of_example: Sequence[int] | None = None,
        *,
        weight_of_example: Weights | None = None,
        group_of_example: Sequence[Hashable] | None = None,
        length_of_example: Sequence[int] | None = None,
    ) -> Iterator[None]:
        """Make one pass over a batch that mixes tasks, and call `backward` inside the context.

        The first passes of each kind are compared with what autograd finds for each task (`check`).

        Args:
            task_of_example: for each example (the first dimension of the model's inputs) the index or the name of its
                task. A tensor on an accelerator is copied to the host, and that waits: give a list.
            half_of_example: for each example 0 or 1, the half of its task's batch that it belongs to, where a batch is
                split into several passes in an order that is not random (by length, say); by default the first and
                the second half of each task's examples.
            weight_of_example: what share of its task's loss in this step each example carries, in any unit: 1 where
                losses are means over examples, the number of its tokens that count where they are means over tokens.
                None: not known, and the noise of gradients (`half_products`) is not estimated.
            group_of_example: what belongs together and is not split into halves: examples of one group are one text.
            length_of_example: of each example in tokens, where they stand behind each other in packed or padding-free
                rows and attention keeps them apart; what follows the last is padding. None: each is a row.

        Raises:
            OrthoLoraError: an unknown task, or layers that only a pass for each task can serve.
        """
        given = task_of_example.tolist() if isinstance(task_of_example, Tensor) else task_of_example
        tasks = [arguments.place_of(task, self.tasks) for task in given]
        arguments.check_watchable(compiled=self.compiled)
        arguments.check_plain(self.blocks)
        self._begin_pass()
        rows = rows_of(
            tasks, len(self.tasks), halves=half_of_example, weights=weight_of_example, groups=group_of_example,
            lengths=length_of_example, first=self._now.turn,
        )  # fmt: skip
        self._weighed |= weight_of_example is not None
        with self._dropping("a pass over a mixed batch"), self.collector.mix(rows):
            yield

    def check(self, losses: Tensor | Mapping[str, Tensor]) -> float:
        """Inside `mixed_batch`, before `backward`: compare each task's gradients with what autograd finds for its loss.

        One backward pass more for each task; gradients, graphs and random numbers stay as they are. `backward` does it
        by itself in the first steps, and whenever a pass looks different from those before. Losses that are not given
        by task can only be compared in sum.

        Returns:
            The largest relative error over tasks and LoRA matrices: about 1e-6 in float32.

        Raises:
            OrthoLoraError: it is larger than rounding explains; names the layer, the task and the way that is exact.
        """
        if not self.collector.is_mixing:
            raise OrthoLoraError(
                "check: called outside `mixed_batch`: a pass of a task's own takes the gradient that autograd found, so"
                " there is nothing to compare; call it inside `with surgeon.mixed_batch(...)`, before `backward`."
            )
        arguments.check_losses(losses, self.tasks, mixed=True)
        return self.verification.compare(*weighted(losses, self.loss_weights), trained(self.model))

    def backward(
        self,
        losses: Tensor | Mapping[str, Tensor],
        *,
        weights: Mapping[str, Weights] | None = None,
        groups: Mapping[str, Sequence[Hashable]] | None = None,
        told: Mapping[str, Tensor] | None = None,
        accumulate: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Measured | None:
        """In place of `loss.backward()`.

        Where it raises, the whole step is dropped (`reset`).

        Args:
            losses: scalars by task; a task may be missing from a step. Inside `mixed_batch` they come from one forward
                pass; there a scalar, the sum of the tasks' losses, will do, but then no losses are recorded.
            weights: outside `mixed_batch`, by task, as `weight` of `backward_part`.
            groups: outside `mixed_batch`, by task, as `groups` of `backward_part`.
            told: inside `mixed_batch`, with a scalar: the tasks' losses, to be recorded; micro-batches add up. Outside,
                in the last call of a step: what is recorded in place of the losses.
            accumulate: more micro-batches follow: gradients add up, task by task, and are projected once, in the call
                without it. Divide the losses by the number of micro-batches, as ever.
            scaler: multiplies the losses, for training in float16.

        Returns:
            What was measured, when the step was projected.
        """
        with self._dropping("a backward pass"):
            arguments.check_losses(losses, self.tasks, mixed=self.collector.is_mixing)
            if self.collector.is_mixing:
                self._backward_mixed(losses, told, accumulate, scaler)
            else:
                weights, groups = weights or {}, groups or {}
                for task, loss in cast(Mapping[str, Tensor], losses).items():
                    self.backward_part(task, loss, weight=weights.get(task), groups=groups.get(task), scaler=scaler)
                self._now.losses |= {task: loss.detach() for task, loss in (told or {}).items()}
            return None if accumulate else self.project()

    def backward_part(
        self,
        task: str,
        loss: Tensor,
        *,
        weight: Weights | None = None,
        groups: Sequence[Hashable] | None = None,
        half: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """One backward pass of one task's loss, to be followed by others and by `project`.

        Args:
            task: its name.
            loss: on a graph of its own.
            weight: what share of the task's loss in this step it carries, in any unit. A number for each example (the
                first dimension of the model's inputs) halves the pass; one number puts all of it into one half, and the
                task's next pass of the step into the other, which serves every kind of layer. None: not known, and the
                noise of the task's gradient is not estimated.
            groups: with a weight for each example: what belongs together, as in `mixed_batch`.
            half: 0 or 1, the half of the task's batch that all of the pass belongs to.
            scaler: multiplies the loss, for training in float16.
        """
        with self._dropping(f"a backward pass of task {task!r}"):
            self._begin_pass()
            arguments.check_losses({task: loss}, self.tasks)
            index = self.tasks.index(task)
            now, size = self._now, len(self.tasks)
            rows = rows_of_one(index, size, half=half, weights=weight, groups=groups, first=now.turn[index])
            self._weighed |= weight is not None
            now.begin_pass([index], {task: loss})
            self.collector.backward_alone(now.scaled(weighted({task: loss}, self.loss_weights)[1][task], scaler), rows)

    def _backward_mixed(
        self,
        losses: Tensor | Mapping[str, Tensor],
        told: Mapping[str, Tensor] | None,
        accumulate: bool,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        total, by_task = weighted(losses, self.loss_weights)
        now = self._now
        total = now.scaled(total, scaler)
        if self.verification.is_due(first_of_step=not now.begun):
            arguments.check_watchable(compiled=is_compiled(self.model))  # it may have been compiled since
            scaled = {task: now.scaled(loss, scaler) for task, loss in by_task.items()}
            self.verification.compare(total, scaled, trained(self.model))
        now.begin_pass(self.collector.mixed.present, told or {} if isinstance(losses, Tensor) else losses)
        if accumulate:
            self.collector.backward_mixed(total)
        else:
            self.streaming.backward(now, total)

    def project(self) -> Measured:
        """End the step: project what was collected, correct `.grad`, and record."""
        former, is_scaled = self.projector.state, self._now.scale is not None
        with self._dropping("a projection"):
            found = self.streaming.finish(self._now, first=not self.step)
        self._now = self._new_step()
        if bad := nonfinite(self.tasks, found):
            found, self.projector.state = replace(found, skipped=is_scaled or self.on_nonfinite == "skip"), former
        self.canary.listen(self.step, found)
        self._scalars.add(found)
        if self.recorder is not None:
            if not self.step and not self._weighed:
                log.warning("the noise of gradients is not estimated: say what share of its loss each example carries")
            self.recording.add(self.recorder, self.step, found)
            record_nonfinite(self.recorder, self.step, bad, skipped=found.skipped)
        self.step += 1
        if bad and self.on_nonfinite is not None and not is_scaled:
            settle(bad, self.step - 1, self.on_nonfinite, trained(self.model), self.optimizer)
        return found

    def scalars(self, *, pairs: bool | None = None) -> dict[str, float]:
        """What a training may log, means over the steps since the last call: see `Scalars.take`."""
        return self._scalars.take(pairs=pairs)

    def snapshot(
        self,
        batches: Mapping[str, Iterable[Drawn]],
        loss_of: Callable[[str, Drawn], Tensor],
        targets: Mapping[str, Iterable[Drawn]] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        groups: Mapping[str, Sequence[Hashable]] | None = None,
        target_groups: Mapping[str, Sequence[Hashable]] | None = None,
        *,
        seed: int = 0,
        limit_bytes: int = BYTES,
    ) -> Snapshot:
        """How the tasks' gradients agree here, seen through the noise of batches: of many batches at these parameters.

        One forward and backward pass a batch. Nothing is changed: parameters, `.grad`, optimizer, buffers, modes and
        random states stay as they are, also where it raises. Of gradients only sums over groups of texts are kept, and
        products are taken across groups alone, so no text stands on both sides of one.

        Args:
            batches: by task, iterables of batches, as the loop has them; 64 of each show pairs with a cosine of 0.3.
            loss_of: the loss of a task on a batch, a scalar on a graph, without loss weight or gradient scale.
            targets: by task, batches of held-out texts, whose gradients are taken in evaluation mode (`transfer`).
            optimizer: whose metric `adamw` is, if it holds second moments; by default that of this surgeon.
            groups: by task, for each of its batches what all of its texts are of: a group of texts that no batch of
                another group shares, of any task. None: batches in turn, which assumes that no two share a text.
            target_groups: as `groups`, of the targets.
            seed: of the hash of many different groups, and of sketches.
            limit_bytes: that sums may take; where they do not fit, sketches of them are kept.

        Raises:
            OrthoLoraError: unknown tasks, no batches, a loss or gradient that is not finite, or a call inside
                `mixed_batch`.
        """
        if self.collector.is_mixing:
            raise OrthoLoraError("snapshot: called inside `mixed_batch`: expected between two steps.")
        self.canary.called = True
        with self.collector.looking_away():
            return snapshot(
                self.model, self.blocks, self.tasks, batches, loss_of, targets=targets, groups=groups,
                target_groups=target_groups, optimizer=optimizer or self.optimizer, loss_weights=self.loss_weights,
                seed=seed, limit_bytes=limit_bytes,
            )  # fmt: skip

    def remove(self) -> None:
        """Stop watching the model."""
        self.collector.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs to go on as if it had never stopped. The record is on disk by then."""
        if self.recorder is not None:
            self.recorder.flush_quietly()
        return {
            "step": self.step,
            "generator": self.generator.get_state(),
            "rule": self.projector.state,
            "silent": list(self.canary.silent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.step, self.canary.silent = state["step"], list(state["silent"])
        self.generator.set_state(state["generator"])
        self.projector.state = state["rule"]
        if self.recorder is not None:
            self.recorder.go_on(self.step)

    @contextmanager
    def _dropping(self, what: str) -> Iterator[None]:
        """Drop the step where something in it raises."""
        try:
            yield
        except BaseException as error:
            self.reset(f"{what} ended with {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            raise

    def _begin_pass(self) -> None:
        """See that what is watched is what is trained, and that what was collected still counts."""
        if not self.collector.watching:
            raise OrthoLoraError(
                "this OrthoLoRA watches no more: it was removed, or another one was made on the same adapter: use that"
                " one, or make it anew."
            )
        self.canary.called = True
        if not self._now.begun:
            check_same(self.blocks)
        if self._now.begun and self.collector.was_zeroed():
            self.reset("gradients were set to zero between two of its passes")

    def _new_step(self) -> Step:
        return Step(self.tasks, self.order, self.generator)
