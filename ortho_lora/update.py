"""From the collected parts of the gradients to the corrected `.grad`: all blocks at once, or while backward goes on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lora.adapters import Block
from ortho_lora.gradients import Collected
from ortho_lora.gram import gram, of_tasks, scope_groups
from ortho_lora.methods import Method
from ortho_lora.projection import Projection, effective_weights, project, project_groups


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
        self.groups = torch.tensor(places, device=blocks[0].parameter.device)  # [N]

    @property
    def separable(self) -> bool:
        """Whether a block can be projected before the others are known."""
        return self.method.scope == "block" and self.method.rule in ("sum", "pcgrad", "pcgrad-inplace")

    def all(self, collected: Sequence[Collected], orders: Sequence[Sequence[int]]) -> Update:
        """Project all blocks at the method's scope."""
        matrices = self._matrices(range(len(self.blocks)), collected)
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
        device = self.groups.device
        nothing = gram(torch.zeros(2 * self.tasks, 1, device=device))
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
