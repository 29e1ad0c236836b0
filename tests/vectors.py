"""Vectors of a snapshot whose truth is known: three tasks, held-out texts of two."""

from dataclasses import dataclass

import numpy as np

from ortho_lora.record.vectors import Vectors

GROUPS, EACH = 16, 4
"""Groups of texts, and batches in each."""


@dataclass(frozen=True)
class Truth:
    means: np.ndarray  # [3, D]
    held_out: np.ndarray  # [2, D]
    deviation: np.ndarray  # of a batch, [3, D]
    rate: float


def truth(seed: int, size: int = 60) -> Truth:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((3, size)) * np.array([[1.0], [2.0], [0.5]])
    means[1] -= 0.5 * means[0]
    held_out = 0.8 * means[:2] + 0.3 * rng.standard_normal((2, size))
    return Truth(means, held_out, 3 * rng.uniform(0.5, 2.0, (3, size)), 1e-3)


def drawn(of: Truth, seed: int, tasks: tuple[str, ...] = ("a", "b", "c")) -> Vectors:
    rng = np.random.default_rng(seed)
    batches = of.means + of.deviation * rng.standard_normal((GROUPS, EACH, *of.means.shape))
    held = of.held_out + of.deviation[:2] * rng.standard_normal((GROUPS, EACH, *of.held_out.shape))
    single = np.float32
    return Vectors(
        tasks=tasks,
        targets=tasks[:2],
        means=batches.mean(1).astype(single),
        held_out=held.mean(1).astype(single),
        deviation=batches.reshape(-1, *of.means.shape).std(0, ddof=1).astype(single),
        batches=np.full(3, GROUPS * EACH),
        rate=np.full(of.means.shape[1], of.rate, single),
        eps=np.full(of.means.shape[1], 1e-8, single),
        past=np.ones(of.means.shape[1], single),
    )
