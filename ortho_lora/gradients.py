"""Per-task gradients of every block, collected during the backward passes that training makes anyway.

The weight gradient of a linear layer is a sum over examples of (output gradient) x (input). Whoever sees both can split
it: into tasks, and each task's into the two halves of its batch, whose product is an unbiased estimate of the squared
norm of the task's true gradient. A *part* is what one half of one task's batch contributes: part 2t + h of 2T.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ortho_lora.adapters import Block
from ortho_lora.errors import OrthoLoraError


@dataclass(frozen=True)
class Mixed:
    """A batch that mixes tasks: which part each of its N examples belongs to."""

    parts: tuple[int, ...]  # of each example
    tasks: int

    @cached_property
    def sizes(self) -> list[int]:
        """Examples in each of the 2T parts."""
        count = Counter(self.parts)
        return [count[part] for part in range(2 * self.tasks)]

    @cached_property
    def present(self) -> set[int]:
        """The tasks that have an example."""
        return {part // 2 for part in self.parts}

    @cached_property
    def regular(self) -> bool:
        """Whether all 2T parts come in order and are of one size."""
        return len(set(self.sizes)) == 1 and list(self.parts) == sorted(self.parts)


def mixed(task_of_example: Sequence[int], tasks: int, half_of_example: Sequence[int] | None = None) -> Mixed:
    """The parts of a batch: by default the first and the second half of each task's examples."""
    if half_of_example is None:
        left = {task: max(count // 2, 1) for task, count in Counter(task_of_example).items()}  # of the first half
        half_of_example = []
        for task in task_of_example:
            half_of_example.append(int(left[task] <= 0))
            left[task] -= 1
    return Mixed(tuple(2 * task + half for task, half in zip(task_of_example, half_of_example, strict=True)), tasks)


@lru_cache(maxsize=8)
def _one_hot(batch: Mixed, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Which example (column) belongs to which part (row), `[2T, N]`."""
    one_hot = nn.functional.one_hot(torch.tensor(batch.parts), 2 * batch.tasks).mT.to(dtype)
    return one_hot.to(device, non_blocking=True)


@dataclass
class Collected:
    """What came in for one block since its gradients were last taken."""

    examples: list[int]  # that went into each of the 2T parts; a batch that was not halved counts none
    parts: Tensor | None = None  # [2T, *shape] in at least float32; None where no gradient came
    tasks: set[int] = field(default_factory=set)  # whose passes reached the block


@dataclass
class _Pass:
    """What happened to one block in the pass under way."""

    calls: int = 0  # how often it was applied
    arrived: int = 0  # how often its gradient was taken apart
    touched: bool = False  # whether autograd gave it a gradient


class Collector:
    """Watches the blocks of a model, and keeps the parts of their gradients until they are taken.

    `.grad` is left exactly as plain training makes it.
    """

    def __init__(self, blocks: Sequence[Block], tasks: int, *, watch: bool = True) -> None:
        """With `watch` false (a compiled model, whose layers cannot be watched) only whole gradients are read."""
        self.blocks, self.tasks = blocks, tasks
        self.on_complete: Callable[[int], None] | None = None
        """Called with the index of a block when a pass over a mixed batch has brought all of its gradient."""
        self._collected = [Collected([0] * 2 * tasks) for _ in blocks]
        self._passes = [_Pass() for _ in blocks]
        self._mixed: Mixed | None = None
        self._alone: tuple[int, int | None] | None = None  # task and half of the pass under way
        self._rows: dict[int, set[int]] = {}  # by block, what its layers received in that pass: examples, it is hoped
        self._backward = False
        self.verified = False
        self._handles: list[RemovableHandle] = []
        for index, block in enumerate(blocks if watch else ()):
            for linear in block.linears:
                self._handles.append(linear.register_forward_hook(partial(self._forward, index)))
            self._handles.append(block.parameter.register_post_accumulate_grad_hook(partial(self._accumulated, index)))

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def mix(self, batch: Mixed) -> Iterator[None]:
        """Take the passes inside the context for passes over a mixed batch."""
        former, self._mixed = self._mixed, batch
        self._passes = [_Pass() for _ in self.blocks]
        try:
            yield
        finally:
            self._mixed = former

    @property
    def is_mixing(self) -> bool:
        return self._mixed is not None

    @property
    def comparable(self) -> bool:
        """Whether the parts of the next pass can, and should, be compared with `.grad`."""
        return not self.verified and all(block.parameter.grad is None for block in self.blocks)

    def backward_mixed(self, loss: Tensor, *, verify: bool = True) -> None:
        """One backward pass of the sum of the tasks' losses over the mixed batch.

        Args:
            loss: on one graph.
            verify: whether to compare the parts with `.grad` where that was not done yet; not while `.grad` may be the
                mean over several ranks.

        Raises:
            OrthoLoraError: the gradient of some block cannot be taken apart by examples.
        """
        comparable = verify and self.comparable
        with self._passing():
            loss.backward()
        for block, seen in zip(self.blocks, self._passes, strict=True):
            if seen.touched and not seen.arrived:
                raise _cannot_split(block, "its gradient came past the layer that is watched")
        if comparable:
            self.verify(self._collected)

    def verify(self, collected: Sequence[Collected]) -> None:
        """Once, and waiting for the device: the parts must add up to the gradient that autograd found itself."""
        errors = {}
        for block, of in zip(self.blocks, collected, strict=True):
            if of.parts is not None and block.parameter.grad is not None:
                plain = block.parameter.grad.to(of.parts.dtype)
                errors[block] = (of.parts.sum(0) - plain).abs().max() / plain.abs().max().clamp(min=1e-30)
        self.verified = bool(errors)
        largest = torch.stack(list(errors.values())).tolist() if errors else []
        for block, error in zip(errors, largest, strict=True):
            if error > 0.2:  # half precision rounds; a wrong split is off by its whole size
                raise _cannot_split(block, f"its examples' gradients are off by {error:.0%} in sum")

    def backward_alone(self, task: int, loss: Tensor, *, half: int | None = None, examples: int = 1) -> None:
        """One backward pass of one task's loss.

        Args:
            task: its index.
            loss: on a graph of its own.
            half: 0 or 1: the loss is that of one half of the batch, to be added to the other's; None: of all of it.
            examples: in that half.
        """
        former = [_kept(block.parameter.grad) for block in self.blocks]
        arrived = [seen.arrived for seen in self._passes]
        for block in self.blocks:
            block.parameter.grad = None
        self._rows = {}
        try:
            with self._passing(task, half):
                loss.backward()
            if half is None:
                self._keep_halves_of_examples(task)
        finally:
            for index, (block, before) in enumerate(zip(self.blocks, former, strict=True)):
                gradient = block.parameter.grad
                if gradient is not None and self._passes[index].arrived == arrived[index]:
                    self._add_whole(index, gradient, 2 * task + (half or 0), 0 if half is None else examples)
                if before is not None:  # as autograd itself accumulates
                    block.parameter.grad = before if gradient is None else before.add_(gradient)

    def ready(self, index: int) -> bool:
        """Whether the pass over the mixed batch has brought all of a block's gradient."""
        seen = self._passes[index]
        return 0 < seen.calls <= seen.arrived

    def take(self, index: int) -> Collected:
        """What came in for a block, which starts anew."""
        taken, self._collected[index] = self._collected[index], Collected([0] * 2 * self.tasks)
        return taken

    @contextmanager
    def _passing(self, task: int | None = None, half: int | None = None) -> Iterator[None]:
        self._backward, self._alone = True, None if task is None else (task, half)
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
        if not output.requires_grad:
            return None
        watched: Tensor = _Watch.apply(output, inputs[0].detach(), partial(self._arrive, index, self._mixed))
        return watched

    def _arrive(self, index: int, batch: Mixed | None, inputs: Tensor, gradient: Tensor) -> None:
        if not self._backward:
            return  # somebody else's backward pass
        # Sums over tokens in half precision lose digits.
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        inputs, gradient = inputs.to(dtype), gradient.to(dtype)
        self._passes[index].arrived += 1
        if self._alone is not None:
            if batch is not None:
                raise OrthoLoraError(
                    "backward_part: a forward pass made inside `mixed_batch` has one backward pass for all tasks:"
                    " expected `backward` there."
                )
            self._arrive_alone(index, inputs, gradient, *self._alone)
            return
        if batch is None:
            raise OrthoLoraError(
                "a backward pass of a mixed batch met a forward pass made outside `mixed_batch`: make the forward and"
                " the backward pass inside one `with surgeon.mixed_batch(...)`."
            )
        if len(inputs) != len(batch.parts):
            raise _cannot_split(self.blocks[index], f"it received {len(inputs)} rows for {len(batch.parts)} examples")
        if batch.regular:
            found = _products(inputs, gradient, 2 * batch.tasks)
        else:
            each = _products(inputs, gradient, len(batch.parts))  # [N, out, in]
            found = (_one_hot(batch, each.device, dtype) @ each.flatten(1)).view(-1, *each.shape[1:])
        collected = self._collected[index]
        collected.parts = found if collected.parts is None else collected.parts.add_(found)
        collected.examples = [a + b for a, b in zip(collected.examples, batch.sizes, strict=True)]
        collected.tasks |= batch.present

    def _arrive_alone(self, index: int, inputs: Tensor, gradient: Tensor, task: int, half: int | None) -> None:
        parts = self._space(index, gradient)
        self._rows.setdefault(index, set()).add(len(inputs))
        first = max(len(inputs) // 2, 1) if half is None else 0
        for part, rows in ((2 * task, slice(0, first)), (2 * task + (1 if half is None else half), slice(first, None))):
            if size := len(inputs[rows]):
                parts[part] += _products(inputs[rows], gradient[rows], 1)[0]
                self._collected[index].examples[part] += size
        self._collected[index].tasks.add(task)

    def _keep_halves_of_examples(self, task: int) -> None:
        """Count no halves of layers that receive other rows than most do, as of a table of positions: no examples."""
        layers = Counter(rows for of in self._rows.values() for rows in of)
        for index, rows in self._rows.items():
            if len(rows) > 1 or 2 * layers[min(rows)] <= len(self._rows):
                self._collected[index].examples[2 * task : 2 * task + 2] = [0, 0]

    def _add_whole(self, index: int, gradient: Tensor, part: int, examples: int) -> None:
        self._space(index, gradient)[part] += gradient
        self._collected[index].examples[part] += examples
        self._collected[index].tasks.add(part // 2)

    def _space(self, index: int, like: Tensor) -> Tensor:
        collected = self._collected[index]
        if collected.parts is None:
            shape = self.blocks[index].parameter.shape
            dtype = torch.promote_types(like.dtype, torch.float32)
            collected.parts = torch.zeros(2 * self.tasks, *shape, dtype=dtype, device=like.device)
        return collected.parts

    def _accumulated(self, index: int, parameter: Tensor) -> None:
        self._passes[index].touched = True
        if self._backward and self.on_complete is not None and self.ready(index):
            self.on_complete(index)


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


def _products(inputs: Tensor, gradient: Tensor, groups: int) -> Tensor:
    """(output gradient) x (input), summed over each of `groups` runs of rows of one length: `[groups, out, in]`."""
    rows = gradient.reshape(groups, -1, gradient.shape[-1])  # [groups, tokens, out]
    columns = inputs.reshape(groups, -1, inputs.shape[-1])  # [groups, tokens, in]
    if rows.shape[-1] <= columns.shape[-1]:
        return rows.mT @ columns
    # With the short side first the product is several times as fast on a CPU (benchmarks/steps.py is where it shows).
    return (columns.mT @ rows).mT.contiguous()


def _kept(gradient: Tensor | None) -> Tensor | None:
    """The gradient, safe from the next pass: DistributedDataParallel may write that into the same bucket."""
    return gradient.clone() if gradient is not None and gradient._is_view() else gradient


def _cannot_split(block: Block, why: str) -> OrthoLoraError:
    return OrthoLoraError(
        f"{block.path}, branch {block.branch}: {why}, so its examples cannot be told apart: give each task a forward"
        " pass and a loss of its own (gradient_mode=sequential)."
    )
