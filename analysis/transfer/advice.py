"""Advice from predicted transfer: which tasks should share an adapter, and how to weigh their losses."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conflict.snapshots import own_metric
from analysis.reading.cache import remembered
from analysis.transfer.predicted import counted_vectors, own_transfer, weights_of
from ortho_lora.record import advice
from ortho_lora.record.schema import groups_text, read_run


def advised_groups(run: Path, at: int | None = None) -> pd.DataFrame:
    """For each number of adapters the groups of tasks whose validation losses are predicted to fall most.

    Args:
        run: directory of the run.
        at: the step of one snapshot; None: all that count together.

    Returns:
        adapters; groups: tasks joined by ` + `, groups by ` | `; gain, low, high: nats a step of the summed loss
        against one adapter, below 0 it is better; elsewhere: the same of groups that are chosen on other texts than
        they are judged on; advised: of one row, as `ortho_lora.record.advice.advised` tells. No rows without held-out
        targets.
    """
    return _advised_groups(run, at)[0].copy()


def advised_split(run: Path) -> tuple[tuple[str, ...], ...]:
    """The tasks of each adapter in the row that `advised_groups` advises; empty without held-out targets."""
    return _advised_groups(run, None)[1]


@remembered("manifest.json", most=32)
def _advised_groups(run: Path, at: int | None) -> tuple[pd.DataFrame, tuple[tuple[str, ...], ...]]:
    columns = ["adapters", "groups", "gain", "low", "high", "elsewhere", "advised"]
    vectors = counted_vectors(run, at)
    if not vectors:
        return pd.DataFrame(columns=columns), ()
    names, rows = vectors[0].tasks, []
    best = advice.best_groups(vectors, weights_of(run), own_metric(run))
    splits = [tuple(tuple(names[place] for place in group) for group in sorted(one.groups)) for one in best]
    for one, split in zip(best, splits, strict=True):
        low, high = (end[0] for end in one.gain.interval())
        rows.append((len(split), groups_text(split), one.gain.value[0], low, high, one.elsewhere, False))
    found = pd.DataFrame(rows, columns=columns)
    place = advice.advised(best, float(np.nansum(own_transfer(run, at).progress.value)))
    found["advised"] = found.index == place
    return found, splits[place]


def advised_weights(run: Path, at: int | None = None) -> tuple[pd.DataFrame, dict[str, float]]:
    """The loss weights with which the summed validation loss is predicted to fall most, in one adapter.

    Returns:
        task, weight (in the run), advised (scaled so that both have the same geometric mean), and gain, low, high,
        elsewhere as of `advised_groups`; empty without held-out targets.
    """
    vectors = counted_vectors(run, at)
    if not vectors:
        return pd.DataFrame(columns=["task", "weight", "advised"]), {}
    weights = weights_of(run)
    found = advice.best_weights(vectors, weights, own_metric(run))
    low, high = (float(end[0]) for end in found.gain.interval())
    gain = {"gain": float(found.gain.value[0]), "low": low, "high": high, "elsewhere": found.elsewhere}
    names = [task.name for task in read_run(run).tasks]
    return pd.DataFrame({"task": names, "weight": weights, "advised": found.weights}), gain
