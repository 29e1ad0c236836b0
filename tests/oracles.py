"""The methods in full vector space, one vector at a time, as their papers print them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pcgrad(gradients: Tensor, order: Sequence[int]) -> Tensor:
    """PCGrad, arXiv 2001.06782, Algorithm 1: `[T, P]` to the projected gradients `[T, P]`."""
    projected = gradients.clone()
    for i in range(len(gradients)):
        for j in order:
            if j != i and projected[i].dot(gradients[j]) < 0:
                projected[i] -= projected[i].dot(gradients[j]) / gradients[j].dot(gradients[j]) * gradients[j]
    return projected


def ortho_lora_as_printed(gradients: Tensor, order: Sequence[int]) -> Tensor:
    """Ortho-LoRA, arXiv 2601.09684, Algorithm 1, which overwrites: `[T, P]` to `[T, P]`."""
    g = gradients.clone()
    for i in order:
        for j in order:
            if j != i and g[i].dot(g[j]) < 0:
                g[i] -= g[i].dot(g[j]) / g[j].dot(g[j]) * g[j]
    return g


def gradvac(gradients: Tensor, order: Sequence[int], target: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Gradient Vaccine, arXiv 2010.05874, Algorithm 1, lines 8 to 18: changed `[T, P]` and next targets."""
    changed, target = gradients.clone(), target.clone()
    for i in range(len(gradients)):
        for j in order:
            if j == i:
                continue
            length, other = changed[i].norm(), gradients[j].norm()
            now, goal = changed[i].dot(gradients[j]) / (length * other), target[i, j].clone()
            if now < goal:
                turn = goal * (1 - now**2).clamp(min=0).sqrt() - now * (1 - goal**2).sqrt()
                changed[i] += length * turn / (other * (1 - goal**2).sqrt()) * gradients[j]
            target[i, j] = (1 - beta) * goal + beta * now
    return changed, target


def random_gradients(tasks: int, size: int, seed: int) -> Tensor:
    """Gradients in general position, `[tasks, size]` in float64."""
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
