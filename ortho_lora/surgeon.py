"""Gradient surgery in anyone's training loop: in place of `loss.backward()`, measure, project and record."""

import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lora import distributed
from ortho_lora.adapters import blocks, is_compiled, module_infos
from ortho_lora.canary import Canary
from ortho_lora.errors import OrthoLoraError
from ortho_lora.gradients import Collected, Collector, mixed
from ortho_lora.gram import of_tasks
from ortho_lora.measure import Measured, half_products, layout_of, record_gradients, record_step, to_cpu
from ortho_lora.methods import METHODS, Branches, Method, Order, Rule, Scope, name_of
from ortho_lora.projection import all_orders, check_rule
from ortho_lora.record import Recorder, versions
from ortho_lora.schema import RunInfo, TaskInfo
from ortho_lora.update import Projector, Update

PENDING_BYTES = 32 * 2**20
"""Gradients that wait during a backward pass to be projected together: too few to matter beside the activations, and
enough that an accelerator is not kept busy with starting tiny kernels."""


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
    ) -> None:
        """Watch a model.

        Args:
            model: holds PEFT LoRA layers; may be wrapped in DistributedDataParallel.
            tasks: their names.
            method: a name in `ortho_lora.methods.METHODS`; `rule`, `scope` and `branches` replace parts of it.
            order: in which tasks are taken: `random` (drawn anew each step), `fixed`, or `mean` over all orders.
            seed: of the random orders; the same on all ranks.
            loss_weights: factors on the tasks' losses; 1 by default.
            adapter: name of the adapter; by default the active one.
            whole: paths of layers whose gradient cannot be taken apart by examples, as
                `ortho_lora.adapters.layers_past_examples` finds them.
            optimizer: whose learning rate is recorded.
            recorder: where to record; None: nowhere.
            record_every: steps between records of gradients; losses are recorded in every step.

        Raises:
            OrthoLoraError: there is no such method, no LoRA, or a kind of training that shards gradients.
        """
        self.tasks = list(tasks)
        if not tasks or len(set(tasks)) < len(self.tasks):
            raise OrthoLoraError(f"tasks: expected different names, found {', '.join(tasks) or 'none'}.")
        self.loss_weights = dict.fromkeys(self.tasks, 1.0) | dict(loss_weights or {})
        for task in self.loss_weights:
            self._index(task)
        self.method = _method(method, rule, scope, branches)
        check_rule(self.method.rule)
        self.order, self.optimizer, self.record_every = order, optimizer, record_every
        self._orders = all_orders(len(tasks)) if order == "mean" else [tuple(range(len(tasks)))]
        distributed.refuse_sharded(model)
        self.model, self.blocks = model, blocks(model, adapter, whole)
        distributed.align(self._trained())
        self.layout = layout_of(self.blocks, tasks)
        self.compiled = is_compiled(model)
        self.collector = Collector(self.blocks, len(tasks), watch=not self.compiled)
        self.projector = Projector(self.blocks, len(tasks), self.method)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self._unknown = torch.full((), torch.nan, device=self.blocks[0].parameter.device)
        self.canary = Canary(self.blocks)
        self._ended = time.perf_counter()
        self._start()
        self.recorder = recorder if distributed.is_first() else None
        if self.recorder is not None and not self.recorder.begun:
            self.recorder.begin(self._identity(self.recorder.run_dir.name, seed))

    def _start(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._scale: Tensor | None = None
        self._updates: list[Update] = []  # of blocks that were projected while backward went on
        self._pending: dict[bool, list[int]] = {True: [], False: []}  # blocks that the method applies to, and others
        self._drawn: list[tuple[int, ...]] | None = None
        self._comparable = False  # whether `.grad` held nothing before the first mixed batch of the step

    @contextmanager
    def mixed_batch(
        self, task_of_example: Sequence[int | str] | Tensor, half_of_example: Sequence[int] | None = None
    ) -> Iterator[None]:
        """Make one pass over a batch that mixes tasks, and call `backward` inside the context.

        Args:
            task_of_example: for each example (the first dimension of the model's inputs) the index or the name of its
                task. A tensor on an accelerator is copied to the host, and that waits: give a list.
            half_of_example: for each example 0 or 1, the half of its task's batch that it belongs to, where a batch is
                split into several passes in an order that is not random (by length, say); by default the first and
                the second half of each task's examples.

        Raises:
            OrthoLoraError: an unknown task, or layers that only a pass for each task can serve.
        """
        given = task_of_example.tolist() if isinstance(task_of_example, Tensor) else task_of_example
        if half_of_example is not None and (len(half_of_example) != len(given) or set(half_of_example) - {0, 1}):
            raise OrthoLoraError(
                f"half_of_example: expected 0 or 1 for each of {len(given)} examples, found {list(half_of_example)}."
            )
        batch = mixed([self._index(task) for task in given], len(self.tasks), half_of_example)
        if self.compiled:
            raise OrthoLoraError(
                "mixed_batch: the layers of a compiled model cannot be watched: give each task a forward pass and a"
                " loss of its own, or leave torch.compile out."
            )
        if special := sorted({block.module for block in self.blocks if not block.plain}):
            raise OrthoLoraError(
                f"mixed_batch needs plain LoRA on linear layers, and {', '.join(special)} are not: give each task a"
                " forward pass and a loss of its own (gradient_mode=sequential)."
            )
        with self.collector.mix(batch):
            yield

    def backward(
        self,
        losses: Tensor | Mapping[str, Tensor],
        *,
        accumulate: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Measured | None:
        """In place of `loss.backward()`.

        Args:
            losses: scalars by task; a task may be missing from a step. Inside `mixed_batch` they come from one forward
                pass; there a scalar, the sum of the tasks' losses, will do, but then no losses are recorded.
            accumulate: more micro-batches follow: gradients add up, task by task, and are projected once, in the call
                without it. Divide the losses by the number of micro-batches, as ever.
            scaler: multiplies the losses, for training in float16.

        Returns:
            What was measured, when the step was projected.
        """
        if self.collector.is_mixing:
            if isinstance(losses, Tensor):
                total = losses
            else:
                total = torch.stack([self._noted(task, loss) for task, loss in losses.items()]).sum()
            self.collector.on_complete = None if accumulate or not self._streams() else self._complete
            try:
                self._comparable |= self.collector.comparable
                self.collector.backward_mixed(self._scaled(total, scaler), verify=distributed.world_size() == 1)
            finally:
                self.collector.on_complete = None
        elif isinstance(losses, Tensor):
            raise OrthoLoraError(
                "backward: one loss given outside `mixed_batch`: expected the losses by task, {'task': loss, ...}, or"
                " a batch that says which example is of which task."
            )
        else:
            for task, loss in losses.items():
                self.backward_part(task, loss, scaler=scaler)
        return None if accumulate else self.project()

    def backward_part(
        self,
        task: str,
        loss: Tensor,
        *,
        half: int | None = None,
        examples: int = 1,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """One backward pass of one task's loss, to be followed by others and by `project`.

        Args:
            task: its name.
            loss: on a graph of its own.
            half: 0 or 1: the loss is that of one half of the task's batch, times its share of the examples. Measures
                the noise of layers whose gradient cannot be split otherwise.
            examples: in that half.
            scaler: multiplies the loss, for training in float16.
        """
        weighted = self._scaled(self._noted(task, loss), scaler)
        self.collector.backward_alone(self._index(task), weighted, half=half, examples=examples)

    def project(self) -> Measured:
        """End the step: project what was collected, correct `.grad`, and record."""
        losses = torch.stack([self._losses.get(task, self._unknown).float() for task in self.tasks])
        orders = self._next_orders()
        if self._updates or any(self._pending.values()):
            known = {index for update in self._updates for index in update.indices}
            left = [index for index in range(len(self.blocks)) if index not in known]
            for applied in (True, False):
                self._project_some([index for index in left if self.projector.applied[index] == applied])
        else:
            collected = [self.collector.take(index) for index in range(len(self.blocks))]
            if distributed.world_size() > 1:
                losses = self._average(collected, losses)
            self._updates.append(self.projector.all(collected, orders))
        measured = self._measured(losses, orders)
        self._start()
        self.canary.listen(self.step, measured)
        if self.recorder is not None:
            self._record(self.recorder, measured)
        self.step += 1
        return measured

    def remove(self) -> None:
        """Stop watching the model."""
        self.collector.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs to go on as if it had never stopped."""
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

    def _index(self, task: int | str) -> int:
        if isinstance(task, str) and task in self.tasks:
            return self.tasks.index(task)
        if isinstance(task, int) and 0 <= task < len(self.tasks):
            return task
        raise OrthoLoraError(f"task {task!r}: expected one of {', '.join(self.tasks)}, or its place from 0.")

    def _noted(self, task: str, loss: Tensor) -> Tensor:
        """The loss times its weight; what is recorded is the loss itself."""
        self._index(task)
        before = self._losses.get(task)
        self._losses[task] = loss.detach() if before is None else before + loss.detach()
        weight = self.loss_weights[task]
        return loss if weight == 1 else weight * loss

    def _scaled(self, loss: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor:
        if scaler is None:
            return loss
        self._scale = scaler.scale(torch.ones_like(loss.detach()))  # read where it is, without waiting
        return scaler.scale(loss)

    def _next_orders(self) -> list[tuple[int, ...]]:
        """The step's orders, drawn once."""
        if self._drawn is None:
            shuffled = self.order == "random"
            drawn = torch.randperm(len(self.tasks), generator=self.generator).tolist() if shuffled else None
            self._drawn = [tuple(drawn)] if drawn else self._orders
        return self._drawn

    def _streams(self) -> bool:
        """Whether blocks can be projected while backward goes on, so that few gradients exist at a time."""
        return self.projector.separable and self.collector.verified and distributed.world_size() == 1

    def _complete(self, index: int) -> None:
        pending = self._pending[self.projector.applied[index]]
        pending.append(index)
        parameters = sum(self.blocks[place].parameter.numel() for place in pending)
        if parameters * 2 * len(self.tasks) * 4 >= PENDING_BYTES:
            self._project_some(pending)
            pending.clear()

    def _project_some(self, indices: Sequence[int]) -> None:
        if indices:
            collected = [self.collector.take(index) for index in indices]
            self._updates.append(self.projector.some(list(indices), collected, self._next_orders()))

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _average(self, collected: Sequence[Collected], losses: Tensor) -> Tensor:
        """Make what was collected, in place, and the losses what they are on average over the ranks."""
        if self.step == 0:
            distributed.refuse_sharded(self.model)  # it may have been split since
        size = len(self.tasks)
        parts = []
        for block, of in zip(self.blocks, collected, strict=True):
            dtype = torch.promote_types(block.parameter.dtype, torch.float32)  # the same on all ranks
            if of.parts is None:
                of.parts = block.parameter.new_zeros(2 * size, *block.parameter.shape, dtype=dtype)
            of.parts = of.parts.to(dtype)
            parts.append(of.parts)
        examples = torch.tensor([of.examples for of in collected])
        here = torch.tensor([[task in of.tasks for task in range(size)] for of in collected])
        examples, present = distributed.average_gradients(self._trained(), parts, examples, here)
        for of, counts, measured in zip(collected, examples.tolist(), present.tolist(), strict=True):
            of.examples, of.tasks = counts, {task for task in range(size) if measured[task]}
        if self._comparable:
            self.collector.verify(collected)
        known = torch.stack([losses.nan_to_num(), (~losses.isnan()).float()])
        distributed.average([known])
        return known[0] / known[1]

    def _measured(self, losses: Tensor, orders: Sequence[tuple[int, ...]]) -> Measured:
        tensors = [losses, self._unknown if self._scale is None else self._scale]
        for parts in (
            [update.matrices for update in self._updates],
            [update.projection.coefficients for update in self._updates],
            [update.projection.projected for update in self._updates],
        ):
            tensors.append(torch.cat(parts))
        losses, scale, matrices, coefficients, projected = to_cpu(tensors)
        place = torch.tensor([index for update in self._updates for index in update.indices]).argsort()
        collected = [of for update in self._updates for of in update.collected]
        size = len(self.tasks)
        present = torch.tensor([[task in of.tasks for task in range(size)] for of in collected])
        if self._scale is not None:
            matrices = matrices / scale**2
        return Measured(
            losses=losses,
            gram=of_tasks(matrices)[place],
            half_products=half_products(matrices, torch.tensor([of.examples for of in collected]))[place],
            coefficients=coefficients[place],
            projected=projected[place].bool(),
            present=present[place],
            order=orders[0] if self.order != "mean" else None,
        )

    def _record(self, recorder: Recorder, measured: Measured) -> None:
        now = time.perf_counter()
        rate = torch.nan if self.optimizer is None else self._learning_rate(self.optimizer)
        record_step(recorder, self.step, self.tasks, measured, learning_rate=rate, seconds=now - self._ended)
        if self.step % self.record_every == 0:
            record_gradients(recorder, self.step, self.layout, measured)
        self._ended = now
        recorder.flush_if_due()
        losses = dict(zip(self.tasks, measured.losses.tolist(), strict=True))
        recorder.progress(self.step + 1, {task: loss for task, loss in losses.items() if loss == loss})

    def _learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """Of the adapter."""
        first = self.blocks[0].parameter
        for group in optimizer.param_groups:
            if any(parameter is first for parameter in group["params"]):
                return float(group["lr"])
        return torch.nan

    def _identity(self, run_id: str, seed: int) -> RunInfo:
        return RunInfo(
            run_id=run_id,
            created=time.time(),
            method=name_of(self.method),
            rule=self.method.rule,
            scope=self.method.scope,
            seed=seed,
            gradient_mode="sequential" if self.compiled else "library",
            config={"order": self.order, "branches": self.method.branches, "record_every": self.record_every},
            tasks=tuple(
                TaskInfo(name=task, metrics=("loss",), loss_weight=self.loss_weights[task]) for task in self.tasks
            ),
            modules=module_infos(self.blocks),
            versions=versions(),
            command=sys.argv,
        )


def _method(name: str, rule: Rule | None, scope: Scope | None, branches: Branches | None) -> Method:
    if name == "single":
        raise OrthoLoraError("method 'single' is an adapter for each task: give each an OrthoLoRA of its own.")
    if name not in METHODS:
        raise OrthoLoraError(f"method {name!r}: expected one of {', '.join(METHODS)}; or give rule and scope.")
    return METHODS[name].changed(rule, scope, branches)
