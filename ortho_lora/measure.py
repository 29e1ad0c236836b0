"""What one step measures, and the rows of the record that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ortho_lora.adapters import Block
from ortho_lora.gradients import TaskGradients
from ortho_lora.gram import combine, cosines, cosines_after, gram, norms, scope_groups, sum_over
from ortho_lora.projection import Projection, effective_weights, project
from ortho_lora.record import Recorder


@dataclass(frozen=True)
class Measured:
    """One group's step, on the CPU: T tasks, N blocks."""

    losses: Tensor  # [T]
    gram: Tensor  # [N, T, T]
    half_products: Tensor  # [N, T]
    projection: Projection  # [N, T, T] each


def measure(
    blocks: Sequence[Block], gradients: TaskGradients, *, rule: str, scope: str, order: Sequence[int]
) -> tuple[Tensor, Projection]:
    """Gram matrices [N, T, T] of N blocks, and what the rule makes of them at the scope, on the gradients' device."""
    device = gradients.half_products.device
    precise = torch.float32 if device.type == "mps" else torch.float64
    matrices = torch.stack([gram(by_task.flatten(1)).to(precise) for by_task in gradients.blocks])
    modules = list(dict.fromkeys(block.path for block in blocks))
    groups, count = scope_groups([modules.index(block.path) for block in blocks], scope)
    scoped = sum_over(matrices, torch.tensor(groups, device=device), count)
    return matrices, project(scoped, rule, order)


def to_cpu(losses: Tensor, matrices: Tensor, half_products: Tensor, projection: Projection) -> Measured:
    """Everything that was measured, in one copy: the only time that a step waits for the device."""
    tensors = [losses, matrices, half_products, *projection]
    packed = torch.cat([tensor.detach().to(matrices.dtype).flatten() for tensor in tensors]).cpu()
    parts = packed.split([tensor.numel() for tensor in tensors])
    losses, matrices, half_products, coefficients, projected = (
        part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)
    )
    return Measured(losses, matrices, half_products, Projection(coefficients, projected.bool()))


def record_gradients(
    recorder: Recorder, step: int, blocks: Sequence[Block], tasks: Sequence[str], measured: Measured
) -> None:
    """Add a step's rows of `pairs` and `norms`: N blocks, T tasks, P = T (T - 1) / 2 pairs."""
    count = len(blocks)
    names = np.array(tasks)
    matrix, coefficients = measured.gram, measured.projection.coefficients
    where = {
        "layer": np.array([block.layer for block in blocks]),
        "module": np.array([block.module for block in blocks]),
        "branch": np.array([block.branch for block in blocks]),
    }

    def rows(width: int) -> dict[str, NDArray[np.generic]]:
        return {name: np.repeat(values, width) for name, values in where.items()}

    i, j = np.triu_indices(len(tasks), 1)
    if len(i):
        before, after = cosines(matrix).numpy(), cosines_after(matrix, coefficients).numpy()
        projected = measured.projection.projected.numpy()
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
        norm_before=norms(matrix).numpy().ravel(),
        norm_after=norms(combine(matrix, coefficients)).numpy().ravel(),
        half_product=measured.half_products.numpy().ravel(),
        weight=effective_weights(coefficients).numpy().ravel(),
    )
