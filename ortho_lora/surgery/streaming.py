"""Projects the blocks of a step: while its backward pass goes on where the method allows it, else at its end."""

from torch import Tensor, nn

from ortho_lora.surgery import distributed
from ortho_lora.surgery.blocks import trained
from ortho_lora.surgery.gradients import Collector
from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.step import Pending, Step
from ortho_lora.surgery.update import Projector, average, measured

PENDING_BYTES = 32 * 2**20
"""Gradients that wait during a backward pass to be projected together: too few to matter beside the activations, and
enough that an accelerator is not kept busy with starting tiny kernels."""


class Streaming:
    """Takes from a collector, and gives to a projector."""

    def __init__(self, model: nn.Module, collector: Collector, projector: Projector) -> None:
        self.model, self.collector, self.projector = model, collector, projector
        self.blocks = collector.blocks

    def is_possible(self) -> bool:
        """Whether blocks can be projected while backward goes on, so that few gradients exist at a time."""
        return self.projector.separable and distributed.world_size() == 1

    def backward(self, step: Step, loss: Tensor) -> None:
        """The last backward pass of a step over mixed batches; blocks are projected as they come, where possible."""
        self.collector.on_complete = (lambda index: self.complete(step, index)) if self.is_possible() else None
        try:
            self.collector.backward_mixed(loss)
        finally:
            self.collector.on_complete = None

    def complete(self, step: Step, index: int) -> None:
        """Take a block of which all of the gradient has come."""
        applied = self.projector.applied[index]
        pending = step.pending[applied]
        pending.add(index, self.collector.take(index))
        if pending.bytes >= PENDING_BYTES:
            self._project(step, pending)
            step.pending[applied] = Pending()

    def finish(self, step: Step, *, first: bool) -> Measured:
        """Project what is left of a step.

        Args:
            step: whose passes are over.
            first: whether it is the first that this process makes.

        Returns:
            What was measured of all its blocks.
        """
        orders = step.orders()
        losses = step.known_losses(self.blocks[0].parameter.device)
        taken = {index for update in step.updates for index in update.indices}
        taken.update(*(pending.indices for pending in step.pending.values()))
        if taken:
            for index in range(len(self.blocks)):
                if index not in taken:
                    self.complete(step, index)
            for pending in step.pending.values():
                self._project(step, pending)
        else:
            collected = [self.collector.take(index) for index in range(len(self.blocks))]
            if distributed.world_size() > 1:
                if first:
                    distributed.refuse_sharded(self.model)  # it may have been split since
                losses = average(self.blocks, collected, trained(self.model), losses)
            step.updates.append(self.projector.all(collected, orders))
        return measured(step.updates, losses, step.scale, orders[0] if step.order != "mean" else None)

    def _project(self, step: Step, pending: Pending) -> None:
        if pending.indices:
            step.updates.append(self.projector.some(pending.indices, pending.collected, step.orders()))
