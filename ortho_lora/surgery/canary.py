"""Calls out LoRA matrices that should receive a gradient and do not."""

import logging
import warnings
from collections.abc import Sequence

from ortho_lora.errors import OrthoLoraWarning
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.measure import Measured

log = logging.getLogger(__name__)

SILENT_STEPS = 3
"""Steps without any gradient after which a block is called out."""


class Canary:
    """Counts for each block the steps in a row in which no task gave it a gradient, and passes of somebody else."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.silent = [0] * len(blocks)
        self.called = False  # whether anybody has called the surgeon, or has been told to
        self._foreign = [0] * len(blocks)

    def foreign(self, index: int) -> None:
        """Take note of a gradient that reached a block past the surgeon; warn once where nobody ever calls it."""
        self._foreign[index] += 1
        if not self.called and self._foreign[index] == SILENT_STEPS:
            self.called = True
            _say(
                f"{SILENT_STEPS} backward passes have trained this model past its OrthoLoRA, which was never called, so"
                " nothing is projected or recorded: call surgeon.backward(losses) in place of loss.backward()."
            )

    def listen(self, step: int, measured: Measured) -> None:
        """Take note of a step; warn once of the blocks that have been silent for too long."""
        received = (measured.gram.diagonal(dim1=-2, dim2=-1) != 0).any(-1).tolist()
        found = []
        for index, (block, some) in enumerate(zip(self.blocks, received, strict=True)):
            if step == 0 and block.branch == "A":
                continue  # B = 0 at the start
            self.silent[index] = 0 if some else self.silent[index] + 1
            if self.silent[index] == SILENT_STEPS:
                found.append(f"{block.path} {block.branch}")
        if found:
            _say(
                f"no gradient from any task has reached {len(found)} of {len(self.blocks)} LoRA matrices for"
                f" {SILENT_STEPS} steps ({', '.join(found[:4])}{', ...' if len(found) > 4 else ''}): is the adapter"
                " active, are its layers used by the tasks' losses, and is nothing detached?"
            )


def _say(message: str) -> None:
    log.warning(message)
    warnings.warn(message, OrthoLoraWarning, stacklevel=5)
