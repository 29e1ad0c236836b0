"""Where a step for each task leads, and what that does to the loss of a single text, to first order."""

import torch
from torch import Tensor

from ortho_lora.surgery.arguments import check_loss
from ortho_lora.surgery.snapshot import Taker, go_back


class Directions:
    """`-learning_rate P w_j mu_j` of T tasks, of the mean gradients mu_j that a snapshot has summed up whole."""

    def __init__(self, taker: Taker, *, adamw: bool) -> None:
        """Take the means as they are now.

        Args:
            taker: with an optimizer, and of every task a batch; its sums are `exact`.
            adamw: whether P is AdamW's metric; else 1.
        """
        self.blocks = taker.blocks
        self._along: list[Tensor] = []  # by block, [T, size]
        of_task = taker.sums.batches[:, : len(taker.tasks)].sum(0)
        with torch.no_grad():
            for index, block in enumerate(taker.sums.blocks):
                moments = block.moments(of_task)
                rate, _ = taker.metric.step(index)
                along = moments.mean * (-rate * taker.metric.weights.to(moments.mean)[:, None])
                self._along.append(along * taker.metric.root(index, None, moments).square() if adamw else along)

    def effect_on(self, loss: Tensor) -> Tensor:
        """How the loss moves in a step for each task alone: nats, [T]; one backward pass, which leaves no gradient.

        Raises:
            OrthoLoraError: the loss is none to start from.
        """
        check_loss("texts", loss)
        found: list[Tensor] = []
        go_back(
            loss, self.blocks, lambda index, gradient: found.append(self._along[index] @ gradient.reshape(-1).float())
        )
        return torch.stack(found).double().sum(0)
