"""Snapshots whose truth is known."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ortho_lora.record.products import of_means
from ortho_lora.record.snapshots import METRICS, Snapshot
from ortho_lora.record.vectors import Vectors

GROUPS = 12


def known_snapshot(
    step: int, tasks: Sequence[str] = ("a", "b", "c"), layers: Sequence[int] = (0, 3), vectors: Vectors | None = None
) -> Snapshot:
    """Of a and b, which conflict at step 0 and agree later, and of c, which has texts in 5 groups of 12 only.

    Two tasks are a and b.
    """
    blocks = tuple(itertools.product(layers, ["query", "value"], ["A", "B"]))
    rng = np.random.default_rng(step)
    products: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    held_out: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    for _ in blocks:
        truth = rng.standard_normal((3, 40))
        truth[1] += (2.0 if step else -2.0) * truth[0]
        means = truth + 0.4 * rng.standard_normal((GROUPS, 3, 40))
        means[5:, 2] = np.nan
        others = truth + 0.4 * rng.standard_normal((GROUPS, 3, 40))
        for metric, root in (("plain", 1.0), ("adamw", rng.uniform(0.5, 2.0, 40))):
            products[metric].append(of_means(means * root))
            held_out[metric].append(of_means((others * root)[:, :2], means * root))
    size = len(tasks)
    counted = np.array([GROUPS, GROUPS, 5])[:size]
    return Snapshot(
        tasks=tuple(tasks), targets=tuple(tasks[:2]), blocks=blocks,
        products={metric: np.stack(of, axis=1)[..., :size, :size] for metric, of in products.items()},
        held_out={metric: np.stack(of, axis=1)[..., :size] for metric, of in held_out.items()},
        groups=counted, target_groups=counted[:2], batches=2 * counted, target_batches=counted[:2],
        losses=np.ones(size), target_losses=np.ones(2), exact=True, of_optimizer=True,
        vectors=vectors,
    )  # fmt: skip


def snapshot_tables(steps: Sequence[int], tasks: Sequence[str], layers: Sequence[int]) -> dict[str, pd.DataFrame]:
    """The rows that a record has of these snapshots, by table."""
    found = [known_snapshot(step, tasks, layers).tables(step) for step in steps]
    return {
        name: pd.concat([tables[name].to_pandas() for tables in found], ignore_index=True)
        for name in ("snapshots", "snapshot_tasks")
    }
