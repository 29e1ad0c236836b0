"""What a training in a loop of the user's own leaves in its record: who it is, and each of its steps."""

import sys
import time
from collections.abc import Mapping, Sequence

import torch

from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import RunInfo, TaskInfo
from ortho_lora.record.versions import versions
from ortho_lora.surgery.blocks import Block, module_infos
from ortho_lora.surgery.measure import Measured, layout_of, record_gradients, record_step
from ortho_lora.surgery.methods import Method, Order, name_of


class Recording:
    """Knows what is the same in all steps, and when the last one ended."""

    def __init__(
        self, blocks: Sequence[Block], tasks: Sequence[str], optimizer: torch.optim.Optimizer | None, every: int
    ) -> None:
        self.blocks, self.tasks, self.optimizer, self.every = blocks, tasks, optimizer, every
        self.layout = layout_of(blocks, tasks)
        self._ended = time.perf_counter()

    def add(self, recorder: Recorder, step: int, measured: Measured) -> None:
        """Add a step's rows; those of gradients in every so many steps only."""
        now = time.perf_counter()
        rate = self._learning_rate()
        record_step(recorder, step, self.tasks, measured, learning_rate=rate, seconds=now - self._ended)
        if step % self.every == 0:
            record_gradients(recorder, step, self.layout, measured)
        self._ended = now
        recorder.flush_if_due()
        losses = zip(self.tasks, measured.losses.tolist(), measured.given.tolist(), strict=True)
        recorder.progress(step + 1, {task: loss for task, loss, known in losses if known})

    def _learning_rate(self) -> float:
        """Of the adapter; NaN: not known."""
        first = self.blocks[0].parameter
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            if any(parameter is first for parameter in group["params"]):
                return float(group["lr"])
        return torch.nan

    def identity(
        self, run_id: str, method: Method, order: Order, seed: int, loss_weights: Mapping[str, float], *, compiled: bool
    ) -> RunInfo:
        """Who the training is."""
        return RunInfo(
            run_id=run_id,
            created=time.time(),
            method=name_of(method),
            rule=method.rule,
            scope=method.scope,
            seed=seed,
            gradient_mode="sequential" if compiled else "library",
            config={"order": order, "branches": method.branches, "record_every": self.every},
            tasks=tuple(TaskInfo(name=task, metrics=("loss",), loss_weight=loss_weights[task]) for task in self.tasks),
            modules=module_infos(self.blocks),
            versions=versions(),
            command=sys.argv,
        )
