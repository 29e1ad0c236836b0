"""Losses and gradients that are not finite: whose they are, and what becomes of their step."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.methods import OnNonfinite


@dataclass(frozen=True)
class Nonfinite:
    """A task whose loss, or whose gradient with a finite loss, is not finite in a step."""

    task: str
    what: Literal["loss", "gradient"]
    loss: float

    def __str__(self) -> str:
        return f"its {self.what} is not finite (loss {self.loss:g})"


def nonfinite(tasks: Sequence[str], measured: Measured) -> list[Nonfinite]:
    """Those of a step, T tasks; where a loss is not, other tasks' gradients are not told: they may have met it."""
    losses = measured.losses.tolist()
    given = measured.given.tolist()
    found = [
        Nonfinite(task, "loss", loss)
        for task, loss, known in zip(tasks, losses, given, strict=True)
        if known and not math.isfinite(loss)
    ]
    if found:
        return found
    squares = measured.gram.diagonal(dim1=-2, dim2=-1).sum(0).tolist()  # [T]
    return [
        Nonfinite(task, "gradient", loss)
        for task, loss, square in zip(tasks, losses, squares, strict=True)
        if not math.isfinite(square)
    ]


def sentence(found: Sequence[Nonfinite], when: str) -> str:
    """Like `task 'movies': its loss is not finite at step 2 (loss nan)`, and who else."""
    first, *others = found
    also = f"; so {'is' if len(others) == 1 else 'are'} that of {', '.join(of.task for of in others)}" if others else ""
    return f"task {first.task!r}: its {first.what} is not finite {when} (loss {first.loss:g}{also})"


def record_nonfinite(recorder: Recorder, step: int, found: Sequence[Nonfinite], *, skipped: bool) -> None:
    """Add a step's rows of `events`."""
    for of in found:
        recorder.event(step, "nonfinite", of.task, str(of))
    if found and skipped:
        recorder.event(step, "skipped", reason=sentence(found, f"at step {step}"))


def settle(
    found: Sequence[Nonfinite],
    step: int,
    on: OnNonfinite,
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """End a step in a loop of the user's own: raise, or leave nothing for the optimizer to do.

    Args:
        found: of the step.
        step: its number.
        on: what to do.
        parameters: whose `.grad` an optimizer would take.
        optimizer: whose parameters are meant too; None: not known.

    Raises:
        OrthoLoraError: `on` is `stop`.
    """
    if on == "stop":
        raise OrthoLoraError(
            f"{sentence(found, f'at step {step}')}: the optimizer has not seen it. Look at that batch, lower the"
            " learning rate or clip; on_nonfinite='skip' leaves such steps out and goes on."
        )
    for parameter in parameters:
        parameter.grad = None
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            parameter.grad = None
