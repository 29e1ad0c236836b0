"""Per-task gradients of every block, collected during the backward passes that training makes anyway.

Whoever sees a layer's inputs and output gradients can take its weight gradient apart (`parts`): into tasks, and each
task's into the two halves of its batch (`halves`). A pass over one task alone needs no split to know the task's
gradient: that is what autograd left in `.grad`, and only the first half is taken apart from it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ortho_lora.errors import OrthoLoraError, OwnPassError
from ortho_lora.surgery.autograd import gradients
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.halves import Rows
from ortho_lora.surgery.parts import misfit, parts_of, share_of


@dataclass
class Collected:
    """What came in for one block since its gradients were last taken."""

    weights: list[float]  # of the examples that went into each of the 2T parts; NaN where a batch was not halved
    parts: Tensor | None = None  # [2T, *shape] in at least float32; None where no gradient came
    tasks: set[int] = field(default_factory=set)  # whose passes reached the block


@dataclass
class _Pass:
    """What happened to one block in the pass under way."""

    calls: int = 0  # how often it was applied
    arrived: int = 0  # how often its gradient was taken apart
    touched: bool = False  # whether autograd gave it a gradient
    kind: tuple[int, bool] | None = None  # dimensions of its input, and whether two of them count examples
    first: Tensor | None = None  # of a pass over one task: the share of the first half
    halved: bool = True  # of such a pass: whether the rows that came were its examples


class Collector:
    """Watches the blocks of a model, and keeps the parts of their gradients until they are taken.

    `.grad` is left exactly as plain training makes it.
    """

    def __init__(self, blocks: Sequence[Block], tasks: int, *, watch: bool = True) -> None:
        """Watch blocks; a collector that watched some of them before does so no more.

        With `watch` false (a compiled model, whose layers cannot be watched) only whole gradients are read.
        """
        self.blocks, self.tasks = blocks, tasks
        self.on_complete: Callable[[int], None] | None = None
        """Called with the index of a block when a pass over a mixed batch has brought all of its gradient."""
        self.on_foreign: Callable[[int], None] | None = None
        """Called with the index of a block to which somebody else's backward pass gave a gradient."""
        self.rough = False  # whether half precision had a part in what came
        self.watching = True
        self._mixed: Rows | None = None
        self._alone: Rows | None = None  # of the pass under way over one task
        self._backward = self._muted = False
        self._first_dimension: set[int] = set()  # blocks whose first dimension counts examples, seen beyond doubt
        self._handles: list[RemovableHandle] = []
        self.reset()
        for index, block in enumerate(blocks if watch else ()):
            for former in _watchers(block.parameter):
                former.remove()
            for linear in block.linears:
                self._handles.append(linear.register_forward_hook(partial(self._forward, index)))
            self._handles.append(block.parameter.register_post_accumulate_grad_hook(partial(self._accumulated, index)))

    def remove(self) -> None:
        """Stop watching."""
        self.watching = False
        for handle in self._handles:
            handle.remove()

    def reset(self) -> None:
        """Forget what came in."""
        self._collected = [Collected([0.0] * 2 * self.tasks) for _ in self.blocks]
        self._passes = [_Pass() for _ in self.blocks]
        # Parameters with their `.grad` and its version, as the last pass left them.
        self._left: list[tuple[nn.Parameter, Tensor, int]] = []

    def _leave(self) -> None:
        waiting = zip(self.blocks, self._collected, strict=True)
        left = [(block.parameter, block.parameter.grad) for block, of in waiting if of.parts is not None]
        self._left = [(parameter, gradient, gradient._version) for parameter, gradient in left if gradient is not None]

    @contextmanager
    def mix(self, rows: Rows) -> Iterator[None]:
        """Take the passes inside the context for passes over a mixed batch."""
        former, self._mixed = self._mixed, rows
        self._passes = [_Pass() for _ in self.blocks]
        try:
            yield
        finally:
            self._mixed = former

    @property
    def is_mixing(self) -> bool:
        return self._mixed is not None

    @property
    def mixed(self) -> Rows:
        """Of the mixed batch."""
        assert self._mixed is not None
        return self._mixed

    @property
    def kind(self) -> tuple[object, ...]:
        """What the pass over the mixed batch looks like: passes of one kind are taken apart in one way."""
        return tuple((seen.calls, seen.kind) for seen in self._passes)

    @property
    def ambiguous(self) -> list[Block]:
        """Blocks whose inputs count examples in their first or in their second dimension, and nobody knows in which."""
        seen = zip(self.blocks, self._passes, strict=True)
        return [block for index, (block, of) in enumerate(seen) if of.kind and not self._is_first(index, of)]

    def is_proven(self) -> None:
        """Take note that gradients of the pass under way, taken apart by the first dimension, were right."""
        self._first_dimension |= {index for index, seen in enumerate(self._passes) if seen.kind}

    def gather(self, loss: Tensor, trained: Sequence[nn.Parameter]) -> list[Collected]:
        """What the backward pass of a loss over the mixed batch would bring, of each block; nothing is changed."""
        former, complete = self._collected, self.on_complete
        self._collected, self.on_complete = [Collected([0.0] * 2 * self.tasks) for _ in self.blocks], None
        try:
            with self._passing():
                gradients(loss, [block.parameter for block in self.blocks], trained)
            return self._collected
        finally:
            self._collected, self.on_complete = former, complete
            for seen in self._passes:
                seen.arrived, seen.touched = 0, False

    def autograd(self, loss: Tensor, trained: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """The gradient of a loss over the mixed batch by autograd, of each block; nothing is changed."""
        self._muted = True
        try:
            with self._passing():
                return gradients(loss, [block.parameter for block in self.blocks], trained)
        finally:
            self._muted = False
            for seen in self._passes:
                seen.touched = False

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Take no notice of the passes inside the context."""
        former, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = former

    def backward_mixed(self, loss: Tensor) -> None:
        """One backward pass of the sum of the tasks' losses, on one graph, over the mixed batch.

        Raises:
            OrthoLoraError: the gradient of some block cannot be taken apart by examples.
        """
        with self._passing():
            loss.backward()
        for block, seen in zip(self.blocks, self._passes, strict=True):
            if seen.touched and not seen.arrived:
                raise _cannot_split(block, "its gradient came past the layer that is watched")
        self._leave()

    def backward_alone(self, loss: Tensor, rows: Rows) -> None:
        """One backward pass of one task's loss, on a graph of its own.

        Args:
            loss: of the task.
            rows: its examples. Where they are of both halves, layers whose first dimension counts them are halved;
                where they are of one, every kind of layer is.
        """
        former = [_kept(block.parameter.grad) for block in self.blocks]
        for block in self.blocks:
            block.parameter.grad = None
        self._passes = [_Pass() for _ in self.blocks]
        found: list[Tensor | None] = [None] * len(self.blocks)
        try:
            with self._passing(rows):
                loss.backward()
            found = [block.parameter.grad for block in self.blocks]
            for index, gradient in enumerate(found):
                if gradient is not None:
                    self._add(index, gradient, rows)
        finally:
            for block, before, gradient in zip(self.blocks, former, found, strict=True):
                if before is not None:  # as autograd itself accumulates
                    block.parameter.grad = before if gradient is None else before.add_(gradient)
        self._leave()

    def was_zeroed(self) -> bool:
        """Whether `.grad`, to which what waits here added, was set to None or to zero since the last pass."""
        now = [parameter.grad for parameter, _, _ in self._left]
        if not any(
            gradient is not former or former._version != version
            for gradient, (_, former, version) in zip(now, self._left, strict=True)
        ):
            return False
        return not any(gradient is not None and bool(gradient.any()) for gradient in now)  # waits, but only here

    def ready(self, index: int) -> bool:
        """Whether the pass over the mixed batch has brought all of a block's gradient."""
        seen = self._passes[index]
        return 0 < seen.calls <= seen.arrived

    def take(self, index: int) -> Collected:
        """What came in for a block, which starts anew."""
        taken, self._collected[index] = self._collected[index], Collected([0.0] * 2 * self.tasks)
        return taken

    @contextmanager
    def _passing(self, alone: Rows | None = None) -> Iterator[None]:
        self._backward, self._alone = True, alone
        device = self.blocks[0].parameter.device.type
        try:
            with torch.autocast(device, enabled=False):  # the products are made in full precision
                yield
        except RuntimeError as error:
            if "backward through the graph a second time" in str(error):
                raise OrthoLoraError(
                    "the tasks' losses share one graph: give each task a forward pass of its own, or make one pass over"
                    " all of them inside `mixed_batch`."
                ) from error
            raise
        finally:
            self._backward, self._alone = False, None

    def _forward(self, index: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if torch.compiler.is_compiling():
            return None
        if self._mixed is not None and not self._backward:  # in a backward pass a checkpoint is computed again
            self._passes[index].calls += 1
            if self._mixed.lengths is None:
                self._look(index, inputs[0], len(self._mixed.parts))
        if not output.requires_grad:
            return None
        watched: Tensor = _Watch.apply(output, inputs[0].detach(), partial(self._arrive, index, self._mixed))
        return watched

    def _look(self, index: int, inputs: Tensor, examples: int) -> None:
        """See which dimension of a layer's input counts examples."""
        ambiguous = inputs.ndim > 2 and inputs.shape[0] == inputs.shape[1] == examples > 1
        self._passes[index].kind = inputs.ndim, ambiguous
        if inputs.shape[0] == examples and not ambiguous:
            self._first_dimension.add(index)

    def _is_first(self, index: int, seen: _Pass) -> bool:
        return seen.kind is None or not seen.kind[1] or index in self._first_dimension

    def _arrive(self, index: int, batch: Rows | None, inputs: Tensor, gradient: Tensor) -> None:
        if not self._backward or self._muted:
            return  # somebody else's backward pass
        # Sums over tokens in half precision lose digits.
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        self.rough |= dtype != gradient.dtype or inputs.dtype.itemsize < dtype.itemsize
        inputs, gradient = inputs.to(dtype), gradient.to(dtype)
        seen = self._passes[index]
        seen.arrived += 1
        if self._alone is not None:
            if batch is not None:
                raise OrthoLoraError(
                    "backward_part: a forward pass made inside `mixed_batch` has one backward pass for all tasks:"
                    " expected `backward` there."
                )
            self._arrive_alone(index, inputs, gradient, self._alone)
            return
        if batch is None:
            raise OrthoLoraError(
                "a backward pass of a mixed batch met a forward pass made outside `mixed_batch`: make the forward and"
                " the backward pass inside one `with surgeon.mixed_batch(...)`."
            )
        if why := misfit(inputs, batch):
            raise _cannot_split(self.blocks[index], why)
        found = parts_of(inputs, gradient, batch)
        collected = self._collected[index]
        collected.parts = found if collected.parts is None else collected.parts.add_(found)
        if seen.arrived == 1:
            self._weigh(collected, batch)

    def _arrive_alone(self, index: int, inputs: Tensor, gradient: Tensor, rows: Rows) -> None:
        if not rows.is_split:
            return  # all of `.grad` is one half's
        seen = self._passes[index]
        self._look(index, inputs, len(rows.parts))
        if len(inputs) != len(rows.parts) or not self._is_first(index, seen):
            seen.halved = False
            return
        share = share_of(inputs, gradient, rows.of_first_part)
        seen.first = share if seen.first is None else seen.first + share

    def _add(self, index: int, gradient: Tensor, rows: Rows) -> None:
        """Add a pass over one task: what autograd found, whatever was taken apart of it."""
        collected, seen = self._collected[index], self._passes[index]
        first, *others = sorted(set(rows.parts))
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        if collected.parts is None:
            shape = gradient.shape
            collected.parts = torch.zeros(2 * self.tasks, *shape, dtype=dtype, device=gradient.device)
        collected.tasks |= rows.present
        if not others:
            collected.parts[first] += gradient
            self._weigh(collected, rows)
        elif seen.first is not None and seen.halved:
            collected.parts[first] += seen.first
            collected.parts[others[0]] += gradient.to(dtype) - seen.first
            self._weigh(collected, rows)
        else:
            collected.parts[first] += gradient
            collected.weights[first] = math.nan

    def _weigh(self, collected: Collected, rows: Rows) -> None:
        collected.weights = [a + b for a, b in zip(collected.weights, rows.weight_of_part, strict=True)]
        collected.tasks |= rows.present

    def _accumulated(self, index: int, parameter: Tensor) -> None:
        if self._muted and not self._backward:
            return
        self._passes[index].touched = True
        if not self._backward:
            if self.on_foreign is not None:
                self.on_foreign(index)
        elif self.on_complete is not None and self.ready(index):
            self.on_complete(index)


def _watchers(parameter: nn.Parameter) -> list[Collector]:
    """The collectors that watch a parameter."""
    hooks = (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values()
    owners = [getattr(getattr(hook, "func", None), "__self__", None) for hook in list(hooks)]
    return [owner for owner in owners if isinstance(owner, Collector)]


class _Watch(torch.autograd.Function):
    """The identity, which in the backward pass hands a layer's input and output gradient to `arrive`.

    Not a tensor hook: what is saved here is given up and computed again under gradient checkpointing, as all else is.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, arrive: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.arrive = arrive
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.arrive(*ctx.saved_tensors, gradient)
        return gradient, None, None


def _kept(gradient: Tensor | None) -> Tensor | None:
    """The gradient, safe from the next pass: DistributedDataParallel may write that into the same bucket."""
    return gradient.clone() if gradient is not None and gradient._is_view() else gradient


def _cannot_split(block: Block, why: str) -> OwnPassError:
    """What to say of a block whose gradient cannot be taken apart."""
    return OwnPassError(
        f"{block.path}, branch {block.branch}: {why}, so its examples cannot be told apart",
        "leave the layer out of the adapter",
    )
