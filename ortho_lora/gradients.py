"""Per-task gradients of every block, from one backward pass over all tasks or from one pass a task.

Both give the same: for each block the gradient of every task, and the product of the gradients of the two halves of
the task's batch, an unbiased estimate of the squared norm of the task's true gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ortho_lora.adapters import Block
from ortho_lora.errors import OrthoLoraError


@dataclass(frozen=True)
class TaskGradients:
    """Gradients of T tasks on N blocks."""

    blocks: list[Tensor]  # N of [T, *shape of the block]
    half_products: Tensor  # [N, T], <g^a, g^b>; NaN where a task's batch has one example only


def halves(size: int) -> tuple[int, ...]:
    """Sizes of the two halves of a batch of `size` examples; one part where it cannot be split."""
    return (size // 2, size - size // 2) if size > 1 else (size,)


class SegmentGradients:
    """Takes the weight gradients of linear layers apart, by runs of examples, in one backward pass.

    A linear layer's weight gradient is a sum over examples of (output gradient) x (input): a hook that sees both gives
    the sum over each run ("segment") of the concatenated batch as one batched matrix product. `.grad` is not touched.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)  # examples in each of the S segments
        self.by_block: dict[int, Tensor] = {}  # [S, out, in]

    def _forward(self, block: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._backward, block, inputs[0].detach()))

    def _backward(self, block: int, inputs: Tensor, gradient: Tensor) -> None:
        if len(inputs) != sum(self.sizes):
            raise OrthoLoraError(
                f"gradient_mode 'fused': a layer received {len(inputs)} rows for {sum(self.sizes)} examples, so its"
                " examples cannot be told apart: use gradient_mode=sequential for this model."
            )
        dtype = torch.promote_types(gradient.dtype, torch.float32)  # sums over tokens in half precision lose digits
        inputs, gradient = inputs.to(dtype), gradient.to(dtype)
        if len(set(self.sizes)) == 1:
            rows = gradient.reshape(len(self.sizes), -1, gradient.shape[-1])  # [S, tokens, out]
            columns = inputs.reshape(len(self.sizes), -1, inputs.shape[-1])  # [S, tokens, in]
            parts = rows.mT @ columns
        else:
            parts = torch.stack(
                [
                    rows.flatten(0, -2).mT @ columns.flatten(0, -2)
                    for rows, columns in zip(gradient.split(self.sizes), inputs.split(self.sizes), strict=True)
                ]
            )
        # A layer that is used twice in one pass receives the sum of both.
        self.by_block[block] = self.by_block[block] + parts if block in self.by_block else parts


@contextmanager
def segmented(blocks: Sequence[Block], sizes: Sequence[int]) -> Iterator[SegmentGradients]:
    """Watch the passes inside the context; every block must be `plain`."""
    segments = SegmentGradients(sizes)
    handles = [
        block.linear.register_forward_hook(partial(segments._forward, index)) for index, block in enumerate(blocks)
    ]
    try:
        yield segments
    finally:
        for handle in handles:
            handle.remove()


def fused(blocks: Sequence[Block], sizes: Sequence[int], backward: Callable[[], None]) -> TaskGradients:
    """Gradients of all tasks from one backward pass over their concatenated batches.

    Args:
        blocks: the N blocks, all `plain`.
        sizes: examples of each of the T tasks, in the order in which they are concatenated.
        backward: one forward and backward pass of the sum of the tasks' losses, each a mean over the task's examples.
    """
    parts = [halves(size) for size in sizes]
    with segmented(blocks, [size for part in parts for size in part]) as segments:
        backward()
    by_block = []
    products = []
    for index, block in enumerate(blocks):
        found = segments.by_block.get(index)
        if found is None:  # no gradient reached the block
            found = torch.zeros(sum(map(len, parts)), *block.parameter.shape, device=block.parameter.device)
        by_task = found.split([len(part) for part in parts])
        by_block.append(torch.stack([task.sum(0) for task in by_task]))
        products.append(torch.stack([_half_product(task, part) for task, part in zip(by_task, parts, strict=True)]))
    return TaskGradients(by_block, torch.stack(products))


def sequential(
    blocks: Sequence[Block], sizes: Sequence[int], backward: Callable[[int, slice, float], None]
) -> TaskGradients:
    """Gradients of all tasks from passes of their own: one a task, or one for each half where a block is not `plain`.

    Works for every layer, and leaves `.grad` of everything outside the blocks as one joint pass would.

    Args:
        blocks: the N blocks.
        sizes: examples of each of the T tasks.
        backward: called with a task, the slice of its examples, and their share of the task's batch: a forward and
            backward pass of the mean loss over the slice, times that share.
    """
    if all(block.plain for block in blocks):
        alone = [fused(blocks, [size], partial(backward, task, slice(0, size), 1.0)) for task, size in enumerate(sizes)]
        by_block = [torch.cat(of_block) for of_block in zip(*(task.blocks for task in alone), strict=True)]
        return TaskGradients(by_block, torch.cat([task.half_products for task in alone], dim=1))

    by_task = []  # T of N of [halves, *shape]
    for task, size in enumerate(sizes):
        passes = []
        start = 0
        for length in halves(size):
            for block in blocks:
                block.parameter.grad = None
            backward(task, slice(start, start + length), length / size)
            passes.append(
                [
                    torch.zeros_like(b.parameter) if b.parameter.grad is None else b.parameter.grad.clone()
                    for b in blocks
                ]
            )
            start += length
        by_task.append([torch.stack(gradients) for gradients in zip(*passes, strict=True)])
    by_block = [torch.stack([task[index].sum(0) for task in by_task]) for index in range(len(blocks))]
    products = [
        torch.stack([_half_product(task[index], halves(size)) for task, size in zip(by_task, sizes, strict=True)])
        for index in range(len(blocks))
    ]
    for block, gradients in zip(blocks, by_block, strict=True):
        block.parameter.grad = gradients.sum(0).to(block.parameter.dtype)
    return TaskGradients(by_block, torch.stack(products))


def _half_product(parts: Tensor, sizes: Sequence[int]) -> Tensor:
    """`<g^a, g^b>` of `parts` [2, *shape], the halves' shares of the gradient of a mean over all examples."""
    if len(sizes) == 1:
        return torch.full((), torch.nan, device=parts.device)
    first, second = sizes
    # g^a = parts[0] (first + second) / first is the gradient of the mean over the first half alone.
    return (parts[0] * parts[1]).sum() * ((first + second) ** 2 / (first * second))


def apply_weights(blocks: Sequence[Block], gradients: TaskGradients, weights: Tensor) -> None:
    """Set `.grad` of every block to `sum_j w_j g_j`; `weights` is `[N, T]`."""
    for block, by_task, weight in zip(blocks, gradients.blocks, weights, strict=True):
        block.parameter.grad = torch.tensordot(weight.to(by_task.dtype), by_task, dims=1).to(block.parameter.dtype)
