"""What one step measures, and the rows of the record that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ortho_lora.adapters import Block
from ortho_lora.gram import combine, cosines, cosines_after, norms
from ortho_lora.projection import effective_weights
from ortho_lora.record import Recorder


@dataclass(frozen=True)
class Measured:
    """One step on the CPU: T tasks, N blocks."""

    losses: Tensor  # [T], NaN where a task was not in the step or its loss is not known
    gram: Tensor  # [N, T, T]
    half_products: Tensor  # [N, T], <g^a, g^b> of the gradients of the two halves of a batch; NaN where not halved
    coefficients: Tensor  # [N, T, T]
    projected: Tensor  # bool [N, T, T]
    present: Tensor  # bool [N, T], whether a pass of the task reached the block
    order: tuple[int, ...] | None  # in which the tasks were taken; None: the mean over all orders


def to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All of them as float64, in one copy: the only time that a step waits for the device."""
    precise = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    packed = torch.cat([tensor.detach().to(precise).flatten() for tensor in tensors]).cpu().double()
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def half_products(matrices: Tensor, examples: Tensor) -> Tensor:
    """`<g^a, g^b>`, `[N, T]`, from Gram matrices of the parts.

    Args:
        matrices: `[N, 2T, 2T]`; part 2t + h is the share of half h in the gradient of the mean over task t's batch.
        examples: int `[N, 2T]`, that went into each part; where one is 0 the batch was not halved: NaN.
    """
    pairs = matrices.diagonal(1, -2, -1)[..., ::2]  # <part 2t, part 2t + 1>
    first, second = examples[..., ::2].double(), examples[..., 1::2].double()
    # The gradient of the mean over the first half alone is (first + second) / first times the part.
    return torch.where(first * second > 0, pairs * (first + second) ** 2 / (first * second), torch.nan)


def record_step(
    recorder: Recorder, step: int, tasks: Sequence[str], measured: Measured, *, learning_rate: float, seconds: float
) -> None:
    """Add a step's rows of `steps`, one a task."""
    places = np.full(len(tasks), -1, dtype=np.int16)
    if measured.order is not None:
        places[list(measured.order)] = np.arange(len(tasks))
    recorder.add(
        "steps",
        step=step,
        task=list(tasks),
        loss=measured.losses.numpy(),
        learning_rate=learning_rate,
        seconds=seconds,
        order=places,
    )


def record_gradients(
    recorder: Recorder, step: int, blocks: Sequence[Block], tasks: Sequence[str], measured: Measured
) -> None:
    """Add a step's rows of `pairs` and `norms`: N blocks, T tasks, P = T (T - 1) / 2 pairs."""
    count = len(blocks)
    names = np.array(tasks)
    # Half-precision training skips a step whose gradients overflowed; such a step has no cosines.
    finite = torch.where(measured.gram.isfinite(), measured.gram, torch.nan)
    matrix, coefficients = finite, measured.coefficients
    where = {
        "layer": np.array([block.layer for block in blocks]),
        "module": np.array([block.module for block in blocks]),
        "branch": np.array([block.branch for block in blocks]),
    }

    def rows(width: int) -> dict[str, NDArray[np.generic]]:
        return {name: np.repeat(values, width) for name, values in where.items()}

    def of_tasks(values: Tensor) -> NDArray[np.float64]:
        return torch.where(measured.present, values, torch.nan).numpy().ravel()

    i, j = np.triu_indices(len(tasks), 1)
    if len(i):
        before, after = cosines(matrix).numpy(), cosines_after(matrix, coefficients).numpy()
        projected = measured.projected.numpy()
        recorder.add(
            "pairs",
            step=step,
            **rows(len(i)),
            task_i=np.tile(names[i], count),
            task_j=np.tile(names[j], count),
            cos_before=before[:, i, j].ravel(),
            cos_after=after[:, i, j].ravel(),
            projected_ij=projected[:, i, j].ravel(),
            projected_ji=projected[:, j, i].ravel(),
        )
    recorder.add(
        "norms",
        step=step,
        **rows(len(tasks)),
        task=np.tile(names, count),
        norm_before=of_tasks(norms(matrix)),
        norm_after=of_tasks(norms(combine(matrix, coefficients))),
        half_product=of_tasks(measured.half_products),
        weight=of_tasks(effective_weights(coefficients)),
    )
