"""Pairs of tasks whose gradients, and so their cosine, are known, as a record tells of them."""

from typing import Any

import numpy as np
from scipy import signal


def recorded(
    rng: np.random.Generator,
    runs: int,
    steps: int,
    cosine: Any,
    share: float,
    correlation: float = 0.0,
    width: int = 32,
) -> list[np.ndarray]:
    """What a record has of a pair: cosines of batches and of their halves, [runs, steps] each.

    Args:
        cosine: the true one, or one for each step.
        share: of a batch's squared gradient that is the task's own.
        correlation: of each coordinate's noise from step to step.
    """
    cosine = np.broadcast_to(cosine, steps)
    true = np.zeros((2, 1, width, steps))
    true[0, 0, 0], true[1, 0, 0], true[1, 0, 1] = 1, cosine, np.sqrt(1 - cosine**2)
    drawn = rng.standard_normal((runs, 2, 2, width, steps + 40))
    drawn = signal.lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], drawn, axis=-1)[..., 40:]
    lengths = np.exp(0.5 * rng.standard_normal((runs, 2, 1, 1, steps)))  # outlying batches
    halves = lengths * (true + np.sqrt(2 * (1 / share - 1) / width) * drawn)
    whole = halves.mean(axis=2)  # [runs, 2, width, steps]
    square = (whole**2).sum(axis=2)
    shared = (halves[:, :, 0] * halves[:, :, 1]).sum(axis=2)
    within = shared / (2 * square - shared)
    return [(whole[:, 0] * whole[:, 1]).sum(axis=1) / np.sqrt(square.prod(axis=1)), within[:, 0], within[:, 1]]
