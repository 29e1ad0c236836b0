"""AdamW's metric: each coordinate divided by the root of the second moment of the update's gradient.

`P = 1 / (sqrt(v_hat) + eps)` is what the optimizer multiplies the mean gradient by, coordinate by coordinate, so
`<g_i, P g_j>` is what a step for task j does to the loss of task i. `v_hat` is the optimizer's own where it has one for
every block, else the second moment of the weighted sum of the tasks' batch gradients that the snapshot itself saw.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

EPS = 1e-8
"""AdamW's, where no optimizer says another."""


class Moments(NamedTuple):
    """Of T tasks' batch gradients at w coordinates."""

    mean: Tensor  # [T, w]
    square: Tensor  # [T, w], the mean of squares
    batches: Tensor  # [T, 1]

    @property
    def variance(self) -> Tensor:
        """[T, w]"""
        spread = (self.square - self.mean.square()).clamp(min=0)
        return spread * self.batches / (self.batches - 1).clamp(min=1)


def second_moment(moments: Moments, weights: Tensor) -> Tensor:
    """Of the sum of the tasks' batch gradients times their loss weights [T], which are independent: [w].

    The noise of the means, whose squares hold it, is taken off.
    """
    of_task = weights.to(moments.mean)[:, None]
    variance = (of_task.square() * moments.variance * (1 - 1 / moments.batches.clamp(min=1))).sum(0)
    return variance + (of_task * moments.mean).sum(0).square()


class Metric:
    """`sqrt(P)` of each block."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer | None, weights: Sequence[float]
    ) -> None:
        """Choose whose second moments count.

        Args:
            parameters: of the blocks.
            optimizer: whose they are if it has them of every block; None: nobody's.
            weights: of the tasks' losses, for those of the snapshot's own.
        """
        self.parameters, self.weights = parameters, torch.tensor(weights)
        self.groups = _groups(parameters, optimizer)
        states = [{} if optimizer is None else optimizer.state.get(parameter, {}) for parameter in parameters]
        self.states = states if all("exp_avg_sq" in state and int(state["step"]) for state in states) else None

    @property
    def of_optimizer(self) -> bool:
        """Whether it is the optimizer's at this place."""
        return self.states is not None

    def step(self, index: int) -> tuple[float, float]:
        """Learning rate and eps of a block; where the rate is 0, as before a warm-up, the one that it rises to."""
        group = self.groups[index]
        rate = float(group.get("lr", math.nan)) or float(group.get("initial_lr", 0.0))
        return rate, group.get("eps", EPS)

    def past(self, index: int, coordinates: Tensor | None, moments: Moments) -> Tensor:
        """P of a block by what it would be if gradients had always been those of the snapshot, [w]; 1: as of nobody."""
        now = second_moment(moments, self.weights).sqrt() + self.groups[index].get("eps", EPS)
        return self.root(index, coordinates, moments).square() * now

    def root(self, index: int, coordinates: Tensor | None, moments: Moments) -> Tensor:
        """`sqrt(P)` of a block at some coordinates, [w]; None: at all."""
        group = self.groups[index]
        if self.states is None:
            found = second_moment(moments, self.weights)
        else:
            state = self.states[index]
            whole = state.get("max_exp_avg_sq", state["exp_avg_sq"]).detach().reshape(-1)
            found = (whole if coordinates is None else whole[coordinates]).float()
            found = found / (1 - group.get("betas", (0.0, 0.0))[1] ** float(state["step"]))
        return (found.sqrt() + group.get("eps", EPS)).rsqrt()


def _groups(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    """The optimizer's settings of each parameter; none where it does not have it."""
    of = {} if optimizer is None else {p: group for group in optimizer.param_groups for p in group["params"]}
    return [of.get(parameter, {}) for parameter in parameters]
