"""From the collected parts of the gradients to the corrected `.grad`: all blocks at once, or while backward goes on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ortho_lora.surgery import distributed
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.gradients import Collected
from ortho_lora.surgery.gram import gram, of_tasks, scope_groups
from ortho_lora.surgery.measure import Measured, half_products, to_cpu
from ortho_lora.surgery.methods import Method
from ortho_lora.surgery.projection import Projection, effective_weights, project, project_groups


@dataclass(frozen=True)
class Update:
    """What was projected of n blocks."""

    indices: list[int]  # of the blocks
    matrices: Tensor  # [n, 2T, 2T], Gram matrices of the parts
    projection: Projection  # [n, T, T] each
    collected: list[Collected]  # without the parts


class Projector:
    """Applies a method to blocks, and carries the state of a rule that has one."""

    def __init__(self, blocks: Sequence[Block], tasks: int, method: Method) -> None:
        self.blocks, self.tasks, self.method = blocks, tasks, method
        self.state: Tensor | None = None
        places, self.count = scope_groups(
            [block.path for block in blocks], [block.branch for block in blocks], method.scope, method.branches
        )
        self.applied = [place >= 0 for place in places]
        self.groups = torch.tensor(places)  # [N]

    @property
    def separable(self) -> bool:
        """Whether a block can be projected before the others are known."""
        return self.method.scope == "block" and self.method.rule in ("sum", "pcgrad", "pcgrad-inplace")

    def all(self, collected: Sequence[Collected], orders: Sequence[Sequence[int]]) -> Update:
        """Project all blocks at the method's scope."""
        matrices = self._matrices(range(len(self.blocks)), collected)
        self.groups = self.groups.to(matrices.device)  # the model may have been moved
        projection = project_groups(
            of_tasks(matrices), self.groups, self.count, self.method.rule, orders, state=self.state
        )
        self.state = projection.state
        return self._corrected(list(range(len(self.blocks))), matrices, projection, collected)

    def some(self, indices: list[int], collected: Sequence[Collected], orders: Sequence[Sequence[int]]) -> Update:
        """Project some blocks, each alone; all or none of them are blocks that the method applies to."""
        matrices = self._matrices(indices, collected)
        rule = self.method.rule if self.applied[indices[0]] else "sum"
        return self._corrected(indices, matrices, project(of_tasks(matrices), rule, orders), collected)

    def _matrices(self, indices: Sequence[int], collected: Sequence[Collected]) -> Tensor:
        nothing = gram(torch.zeros(2 * self.tasks, 1, device=self.blocks[0].parameter.device))
        return torch.stack([nothing if of.parts is None else gram(of.parts.flatten(1)) for of in collected])

    def _corrected(
        self, indices: list[int], matrices: Tensor, projection: Projection, collected: Sequence[Collected]
    ) -> Update:
        """Add `sum_j (w_j - 1) g_j` to the plain sum that autograd left in `.grad`.

        Where nothing was projected that is exactly zero, and the plain sum stays as it is, bit for bit.
        """
        if self.method.rule != "sum":
            surplus = (effective_weights(projection.coefficients) - 1).repeat_interleave(2, dim=-1)  # [n, 2T]
            for index, of, weights in zip(indices, collected, surplus, strict=True):
                parameter = self.blocks[index].parameter
                if of.parts is not None and parameter.grad is not None:
                    change = weights.to(of.parts.dtype) @ of.parts.flatten(1)
                    parameter.grad.add_(change.view_as(parameter))
        for of in collected:
            of.parts = None
        return Update(indices, matrices, projection, list(collected))


def average(
    blocks: Sequence[Block], collected: Sequence[Collected], trained: Sequence[nn.Parameter], losses: Tensor
) -> Tensor:
    """Make what was collected, in place, and the tasks' losses what they are on average over the ranks that have one.

    Args:
        blocks: N.
        collected: of each.
        trained: all parameters that are trained.
        losses: of the T tasks, and 1 where one is known on this rank, else 0, `[2, T]`.

    Returns:
        The same of all ranks; NaN is the mean of losses one of which is NaN.
    """
    size = losses.shape[1]
    parts = []
    for block, of in zip(blocks, collected, strict=True):
        dtype = torch.promote_types(block.parameter.dtype, torch.float32)  # the same on all ranks
        if of.parts is None:
            of.parts = block.parameter.new_zeros(2 * size, *block.parameter.shape, dtype=dtype)
        of.parts = of.parts.to(dtype)
        parts.append(of.parts)
    weights = torch.tensor([of.weights for of in collected])
    here = torch.tensor([[task in of.tasks for task in range(size)] for of in collected])
    weights, present = distributed.average_gradients(trained, parts, weights, here)
    for of, weighs, reached in zip(collected, weights.tolist(), present.tolist(), strict=True):
        of.weights, of.tasks = weighs, {task for task in range(size) if reached[task]}
    known = losses[1]
    sums = torch.stack([torch.where(known > 0, losses[0], 0), known])
    distributed.average([sums])
    return torch.stack([sums[0] / sums[1], (sums[1] > 0).to(losses)])


def measured(
    updates: Sequence[Update], losses: Tensor, scale: Tensor | None, order: tuple[int, ...] | None
) -> Measured:
    """What a step measured, on the CPU.

    Args:
        updates: of all blocks together.
        losses: of the tasks, and 1 where one is known, else 0, `[2, T]`.
        scale: that the losses were multiplied by; None: by nothing.
        order: in which the tasks were taken.
    """
    losses, factor, matrices, coefficients, projected = to_cpu(
        [
            losses,
            losses.new_ones(()) if scale is None else scale,
            torch.cat([update.matrices for update in updates]),
            torch.cat([update.projection.coefficients for update in updates]),
            torch.cat([update.projection.projected for update in updates]),
        ]
    )
    place = torch.tensor([index for update in updates for index in update.indices]).argsort()
    collected = [of for update in updates for of in update.collected]
    present = torch.tensor([[task in of.tasks for task in range(losses.shape[1])] for of in collected])
    matrices = matrices / factor**2
    return Measured(
        losses=losses[0],
        gram=of_tasks(matrices)[place],
        half_products=half_products(matrices, torch.tensor([of.weights for of in collected]))[place],
        coefficients=coefficients[place],
        projected=projected[place].bool(),
        present=present[place],
        order=order,
        known=losses[1] > 0,
    )
