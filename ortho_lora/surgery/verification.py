"""Compares gradients that were taken apart of a mixed batch with each task's own, where that was not yet done."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ortho_lora.errors import OrthoLoraError, OwnPassError
from ortho_lora.surgery import distributed
from ortho_lora.surgery.autograd import errors, has_reentrant_checkpoints
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.gradients import Collector

log = logging.getLogger(__name__)

EXACT = 1e-3
"""Relative error of a gradient that is told from rounding in float32 and float64; sums that cancel cost some digits."""
ROUGH = 0.2
"""The same where half precision or TF32 has rounded: a wrong split is off by more."""
MOST_STEPS = 8
"""In which blocks that had no gradient so far are looked at again: while B = 0, A has none."""


class Verification:
    """Looks at the first passes of each kind: one backward pass more for each task, which changes nothing."""

    def __init__(self, collector: Collector, tasks: Sequence[str], *, waits: bool = False) -> None:
        """Look at what a collector brings; `waits` where each backward pass waits for all ranks, which may not look."""
        self.collector, self.tasks, self.waits = collector, tasks, waits
        self._kinds: set[object] = set()
        self._unproven = set(range(len(collector.blocks)))  # blocks without a gradient whenever they were looked at
        self._steps = 0

    def is_due(self, first_of_step: bool) -> bool:
        """Whether to compare the pass under way, whose forward part is done."""
        again = first_of_step and bool(self._unproven) and self._steps < MOST_STEPS
        return again or self.collector.kind not in self._kinds

    def compare(self, total: Tensor, losses: Mapping[str, Tensor], trained: Sequence[nn.Parameter]) -> float:
        """Compare the gradients that a pass over the mixed batch would be taken apart into with those of autograd.

        Args:
            total: the loss of the pass.
            losses: each task's own, on the same graph; none where only their sum is known: then the parts are compared
                in sum, which tells less.
            trained: all parameters that are.

        Returns:
            The largest relative error; 0 where nothing can be compared.

        Raises:
            OrthoLoraError: it is larger than rounding explains.
        """
        collector = self.collector
        if not losses and len(collector.mixed.present) > 1 and (doubtful := collector.ambiguous):
            raise OrthoLoraError(
                f"{doubtful[0].path}: its input has {len(collector.mixed.parts)} examples and as many tokens, so one"
                " loss for all tasks cannot tell which dimension is which: give the losses by task, or another length."
            )
        if distributed.world_size() > 1 and (self.waits or has_reentrant_checkpoints(total)):
            # Another `backward` would send gradients that belong to no step, or wait for ranks that make none.
            log.warning(
                "mixed batches are not verified under fully_shard, nor under reentrant checkpoints, on several"
                " processes: run the first steps in one process, or use the other checkpoints"
            )
            self._kinds.add(collector.kind)
            self._unproven.clear()
            return 0.0
        gathered = collector.gather(total, trained)
        rough = collector.rough or torch.get_float32_matmul_precision() != "highest"
        worst, where, whose = -1.0, 0, ""
        for name, loss in losses.items() or [("", total)]:
            if not loss.requires_grad:
                continue
            first = 2 * self.tasks.index(name) if name else 0
            parts = slice(first, first + 2) if name else slice(None)
            found = [None if of.parts is None else of.parts[parts].sum(0) for of in gathered]
            truth = collector.autograd(loss, trained)
            if all(one is None for one in (*found, *truth)):
                continue
            error, size = errors(found, truth, rough=rough)
            self._unproven -= set(size.nonzero().flatten().tolist())
            if error.isfinite().all() and error.max() > worst:
                worst, where, whose = float(error.max()), int(error.argmax()), name
        if worst > (ROUGH if rough else EXACT):
            raise _off_by(collector.blocks[where], worst, f"task {whose!r}" if whose else "all tasks together")
        self._steps += 1
        if worst >= 0:
            self._kinds.add(collector.kind)
            if losses:
                collector.is_proven()
        return max(worst, 0.0)


def _off_by(block: Block, error: float, whose: str) -> OwnPassError:
    return OwnPassError(
        f"{block.path}, branch {block.branch}: the gradient of {whose} taken from a mixed batch is off by {error:.0%}"
        " from what autograd finds: its rows are not the batch's examples (a model that is time first), a loss couples"
        " examples of several tasks (in-batch negatives, batch statistics, a term that balances experts), or a loss"
        " uses the weights themselves (a penalty)"
    )
