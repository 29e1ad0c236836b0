"""What one step measures, and the rows of the record that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ortho_lora.record.recorder import Recorder
from ortho_lora.record.rows import Gradients, Layout
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.gram import combine, cosines, cosines_after, norms
from ortho_lora.surgery.projection import effective_weights


@dataclass(frozen=True)
class Measured:
    """One step on the CPU: T tasks, N blocks."""

    losses: Tensor  # [T], NaN also where a task was not in the step or its loss is not known
    gram: Tensor  # [N, T, T]
    half_products: Tensor  # [N, T], <g^a, g^b> of the gradients of the two halves of a batch; NaN where not halved
    coefficients: Tensor  # [N, T, T]
    projected: Tensor  # bool [N, T, T]
    present: Tensor  # bool [N, T], whether a pass of the task reached the block
    order: tuple[int, ...] | None  # in which the tasks were taken; None: the mean over all orders
    known: Tensor | None = None  # bool [T], whether a loss was given; None: where it is a number
    skipped: bool = False  # whether the step was left out, because something in it is not finite

    @property
    def given(self) -> Tensor:
        """Whether a task's loss is known, be it finite or not, bool [T]."""
        return ~self.losses.isnan() if self.known is None else self.known


def to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All of them as float64, in one copy: the only time that a step waits for the device."""
    precise = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    packed = torch.cat([tensor.detach().to(precise).flatten() for tensor in tensors]).cpu().double()
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def half_products(matrices: Tensor, weights: Tensor) -> Tensor:
    """`<g^a, g^b>`, `[N, T]`, from Gram matrices of the parts.

    Args:
        matrices: `[N, 2T, 2T]`; part 2t + h is the share of half h in the gradient of task t's loss.
        weights: `[N, 2T]`, the share of the loss that each part carries, in any unit; where one is 0 or NaN the batch
            was not halved: NaN.
    """
    pairs = matrices.diagonal(1, -2, -1)[..., ::2]  # <part 2t, part 2t + 1>
    first, second = weights[..., ::2].double(), weights[..., 1::2].double()
    # The gradient of the loss of the first half alone is (first + second) / first times the part.
    return torch.where(first * second > 0, pairs * (first + second) ** 2 / (first * second), torch.nan)


def record_step(
    recorder: Recorder, step: int, tasks: Sequence[str], measured: Measured, *, learning_rate: float, seconds: float
) -> None:
    """Add a step's rows of `steps`, one a task."""
    places = np.full(len(tasks), -1, dtype=np.int16)
    if measured.order is not None:
        places[list(measured.order)] = np.arange(len(tasks))
    losses = zip(measured.losses.tolist(), measured.given.tolist(), strict=True)
    recorder.add(
        "steps",
        step=step,
        task=list(tasks),
        loss=np.array([loss if known else None for loss, known in losses], object),
        learning_rate=learning_rate,
        seconds=seconds,
        order=places,
    )


def layout_of(blocks: Sequence[Block], tasks: Sequence[str]) -> Layout:
    """The rows that the gradients of these tasks on these blocks make in each step."""
    return Layout.of([(block.layer, block.module, block.branch) for block in blocks], tasks)


def record_gradients(recorder: Recorder, step: int, layout: Layout, measured: Measured) -> None:
    """Add a step's rows of `pairs` and `norms`: N blocks, T tasks."""
    # Half-precision training skips a step whose gradients overflowed; such a step has no cosines.
    matrix = torch.where(measured.gram.isfinite(), measured.gram, torch.nan)
    i, j = np.triu_indices(matrix.shape[-1], 1)

    def of_tasks(values: Tensor) -> NDArray[np.float64]:
        return torch.where(measured.present, values, torch.nan).numpy()

    before, after = cosines(matrix).numpy(), cosines_after(matrix, measured.coefficients).numpy()
    projected = measured.projected.numpy()
    pairs = {
        "cos_before": before[:, i, j],
        "cos_after": after[:, i, j],
        "projected_ij": projected[:, i, j],
        "projected_ji": projected[:, j, i],
    }
    of_norms = {
        "norm_before": of_tasks(norms(matrix)),
        "norm_after": of_tasks(norms(combine(matrix, measured.coefficients))),
        "half_product": of_tasks(measured.half_products),
        "weight": of_tasks(effective_weights(measured.coefficients)),
    }
    recorder.add_gradients(Gradients.of(step, layout, pairs, of_norms))
