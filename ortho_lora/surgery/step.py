"""The step under way: what its passes have brought so far, beside the gradients themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ortho_lora.surgery.gradients import Collected
from ortho_lora.surgery.methods import Order
from ortho_lora.surgery.projection import all_orders
from ortho_lora.surgery.update import Update


@dataclass
class Pending:
    """Blocks that wait to be projected together."""

    indices: list[int] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    bytes: int = 0  # of their parts

    def add(self, index: int, collected: Collected) -> None:
        self.indices.append(index)
        self.collected.append(collected)
        self.bytes += 0 if collected.parts is None else collected.parts.nbytes


class Step:
    """Made anew for each step; dropped with it where a pass does not end."""

    def __init__(self, tasks: Sequence[str], order: Order, generator: torch.Generator) -> None:
        self.tasks, self.order, self.generator = tasks, order, generator
        self.begun = False  # whether a backward pass was
        self.losses: dict[str, Tensor] = {}  # by task, without their weights
        self.scale: Tensor | None = None  # that losses are multiplied by, in float16
        self.turn = [0] * len(tasks)  # by task, the half that its next examples go to
        self.updates: list[Update] = []  # of blocks that were projected while backward went on
        self.pending = {True: Pending(), False: Pending()}  # blocks that the method applies to, and others
        self._orders: list[tuple[int, ...]] = []
        self._before: Tensor | None = None  # the generator's state before orders were drawn

    def begin_pass(self, tasks: Iterable[int], losses: Mapping[str, Tensor]) -> None:
        """Take note of a backward pass: add to the losses, and let its tasks' next examples go to the other half."""
        self.begun = True
        for task in tasks:
            self.turn[task] = 1 - self.turn[task]
        for name, loss in losses.items():
            before = self.losses.get(name)
            self.losses[name] = loss.detach() if before is None else before + loss.detach()

    def scaled(self, loss: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor:
        """The loss as the scaler has it; its scale is read where it is, without waiting."""
        if scaler is None:
            return loss
        self.scale = scaler.scale(torch.ones_like(loss.detach()))
        return scaler.scale(loss)

    def orders(self) -> list[tuple[int, ...]]:
        """In which the tasks are taken; drawn once."""
        if not self._orders:
            self._before = self.generator.get_state()
            size = len(self.tasks)
            if self.order == "mean":
                self._orders = all_orders(size)
            elif self.order == "random":
                self._orders = [tuple(torch.randperm(size, generator=self.generator).tolist())]
            else:
                self._orders = [tuple(range(size))]
        return self._orders

    def undo(self) -> None:
        """Leave the generator as if the step had not been."""
        if self._before is not None:
            self.generator.set_state(self._before)

    def known_losses(self, device: torch.device) -> Tensor:
        """The tasks' losses, NaN where none was given, and whether one was, `[2, T]`."""
        unknown = torch.full((), torch.nan, device=device)
        losses = torch.stack([self.losses.get(task, unknown).float() for task in self.tasks])
        return torch.stack([losses, torch.tensor([task in self.losses for task in self.tasks]).to(losses)])


def weighted(losses: Tensor | Mapping[str, Tensor], by: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of losses times the weights of their tasks, and each of them; a sum that is given stays as it is."""
    if isinstance(losses, Tensor):
        return losses, {}
    each = {task: loss if (weight := by[task]) == 1 else weight * loss for task, loss in losses.items()}
    return torch.stack(list(each.values())).sum(), each
