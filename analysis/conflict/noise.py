"""What the three ways to read a cosine make of gradients whose true cosine is known: for whoever learns to trust none.

Batches of two tasks at one place: true gradients of length 1 with a chosen cosine, and around them the noise of texts.
"""

import numpy as np
import pandas as pd

from analysis.statistics.cosines import of_steps
from analysis.statistics.series import Floats, means
from ortho_lora.record.products import cosines, of_means

DIMENSIONS = 256
SIGNAL, AT = 0.05, 16
"""Share of a batch's squared gradient norm that is the mean gradient's, and the size of that batch: a usual one
(docs/RESULTS.md)."""
MOST_GROUPS = 64
"""Of texts, in a snapshot."""


def signal_of(batch_size: int) -> float:
    """Share of the squared norm of a batch's gradient that is the mean gradient's."""
    return 1 / (1 + _noise(batch_size))


def estimates(cosine: float, batch_size: int, batches: int, seed: int = 0) -> pd.DataFrame:
    """The same batches read in three ways, and one batch by itself.

    Args:
        cosine: the true one, of the two tasks' mean gradients.
        batch_size: texts of a task in a batch, even.
        batches: of each task, at least 8.
        seed: of the noise.

    Returns:
        estimate: `one batch`, `mean of batches`, `corrected by half batches`, `snapshot`; cosine, NaN where only its
        interval is known, with its 95% interval low to high, NaN of one batch.
    """
    rng = np.random.default_rng(seed)
    true = np.zeros((2, DIMENSIONS))
    true[0, 0] = 1
    true[1, :2] = cosine, np.sqrt(1 - cosine**2)
    scale = np.sqrt(_noise(batch_size) * 2 / DIMENSIONS)  # of half a batch, in each direction
    halves = true + scale * rng.standard_normal((batches, 2, 2, DIMENSIONS))  # [n, half, task, D]
    whole = halves.mean(axis=1)
    length = np.linalg.norm(whole, axis=2)
    raw = (whole[:, 0] * whole[:, 1]).sum(axis=1) / length.prod(axis=1)
    together = 2 * (halves[:, 0] * halves[:, 1]).sum(axis=2) / (halves**2).sum(axis=(1, 3))  # [n, task]
    corrected = of_steps(raw[None], *together.T[:, None], shares_texts=np.zeros(1, dtype=bool))
    groups = min(batches, MOST_GROUPS)
    found = np.stack([part.mean(axis=0) for part in np.array_split(whole, groups)])
    snapshot = cosines(of_means(found), np.full(2, groups))
    mean, (low, high) = means(raw[None]), snapshot.interval()
    rows: list[tuple[str, Floats, Floats, Floats]] = [
        ("one batch", raw[:1], np.full(1, np.nan), np.full(1, np.nan)),
        ("mean of batches", mean.value, *mean.interval()),
        ("corrected by half batches", corrected.value, *corrected.interval()),
        ("snapshot", snapshot.value[1:2], low[1:2], high[1:2]),
    ]
    return pd.DataFrame(
        [(name, *(float(of[0]) for of in values)) for name, *values in rows],
        columns=["estimate", "cosine", "low", "high"],
    )


def _noise(batch_size: int) -> float:
    """Squared norm of the noise of a batch, by that of the mean gradient."""
    return (1 / SIGNAL - 1) * AT / batch_size
