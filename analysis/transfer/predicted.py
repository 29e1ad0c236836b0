"""What the snapshots of a run predict that tasks do to each other: in its mixture, and in any other."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conflict.snapshots import own_metric, together
from analysis.reading.arrow import rows_of
from analysis.reading.cache import remembered
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Effects, Floats
from ortho_lora.record.schema import read_run
from ortho_lora.record.transfer import Transfer, progress, transfer
from ortho_lora.record.vectors import Vectors, by_step

COLUMNS = (
    "step", "source", "target", "nats", "low", "high", "pull", "pull_low", "pull_high",
    "crowding", "crowding_low", "crowding_high", "share", "q", "verdict",
)  # fmt: skip


def transfer_steps(run: Path) -> list[int]:
    """After which steps its snapshots were taken that have held-out targets."""
    return sorted(_vectors(run))


def transfer_matrix(run: Path, at: int | None = None) -> pd.DataFrame:
    """What each source does to each target in the mixture of the run, with it minus without.

    Args:
        run: directory of the run.
        at: the step of one snapshot; None: the mean over all that count together (`conflict.snapshots.together`).

    Returns:
        A row an ordered pair, a task on itself included, in the order of the tasks. step: of the (last) snapshot; nats
        of the target's validation loss a step, above 0 it harms, with its 95% interval, and apart in pull and crowding;
        share: of the target's progress alone, NaN where that is not clear of its noise; q: adjusted for the number of
        pairs; verdict: `harms`, `helps` or `not sure`. No rows without held-out targets.
    """
    if not (steps := counted_steps(run, at)):
        return pd.DataFrame(columns=COLUMNS)
    return _frame(steps[-1], _vectors(run)[steps[-1]], own_transfer(run, at))


def says_nats(matrix: pd.DataFrame) -> bool:
    """Whether a `transfer_matrix` says anything in nats."""
    return bool(matrix["nats"].notna().any())


def over_transfer(run: Path) -> pd.DataFrame:
    """`transfer_matrix` of each snapshot by itself, below each other."""
    frames = [transfer_matrix(run, at) for at in transfer_steps(run)]
    return pd.concat(frames, ignore_index=True) if frames else transfer_matrix(run)


def target_progress(run: Path, mixture: Mapping[str, float] | None = None, at: int | None = None) -> pd.DataFrame:
    """How each target's validation loss moves a step, in the run's mixture, alone, and in any other.

    Args:
        run: directory of the run.
        mixture: loss weights by task, 0 of those that are not named; None: that of the run.
        at: as of `transfer_matrix`.

    Returns:
        A row a target: step, target; nats, low, high: in the mixture; alone, alone_low, alone_high: with its own task
        alone, at its weight in the run. No rows without held-out targets.

    Raises:
        OrthoLoraError: the mixture names a task that the run does not have, or weighs it below 0.
    """
    columns = ["step", "target", "nats", "low", "high", "alone", "alone_low", "alone_high"]
    chosen = _weights(run, mixture)
    vectors = counted_vectors(run, at)
    if not vectors:
        return pd.DataFrame(columns=columns)
    own = own_transfer(run, at)
    told = own.progress if mixture is None else progress(vectors, chosen, own_metric(run))
    values = [counted_steps(run, at)[-1], vectors[0].targets, *_told(told), *_told(own.alone)]
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def weights_of(run: Path) -> Floats:
    """Of the losses of its tasks, [T]."""
    return np.array([task.loss_weight for task in read_run(run).tasks])


def _weights(run: Path, mixture: Mapping[str, float] | None) -> Floats:
    names = [task.name for task in read_run(run).tasks]
    for name, weight in (mixture or {}).items():
        if name not in names:
            raise OrthoLoraError(f"mixture: task {name!r}: expected one of {', '.join(names)}.")
        if not 0 <= weight < np.inf:
            raise OrthoLoraError(f"mixture: weight {weight:g} of task {name!r} given, expected 0 or more.")
    return weights_of(run) if mixture is None else np.array([mixture.get(name, 0.0) for name in names])


def counted_vectors(run: Path, at: int | None = None) -> list[Vectors]:
    """Of the snapshots that count together, or of one; none without held-out targets."""
    return [_vectors(run)[step] for step in counted_steps(run, at)]


@remembered("manifest.json", most=32)
def own_transfer(run: Path, at: int | None) -> Transfer:
    """In the mixture of the run; of a run with held-out targets."""
    return transfer(counted_vectors(run, at), weights_of(run), own_metric(run))


def counted_steps(run: Path, at: int | None = None) -> list[int]:
    """The snapshots with held-out targets that count together, or the one that is asked."""
    there = transfer_steps(run)
    return [step for step in (together(run) if at is None else [at]) if step in there]


@remembered("manifest.json", most=2)  # a hundred megabytes each where tasks are many
def _vectors(run: Path) -> dict[int, Vectors]:
    """By the step of the snapshot."""
    return by_step(rows_of(run, "vectors"), rows_of(run, "snapshot_tasks"), run / "vectors")


def _frame(step: int, vectors: Vectors, found: Transfer) -> pd.DataFrame:
    target, source = np.indices((len(vectors.targets), len(vectors.tasks))).reshape(2, -1)
    effects = [values for of in (found.nats, found.pull, found.crowding) for values in _told(of)]
    names = np.array(vectors.tasks)[source], np.array(vectors.targets)[target]
    values = [step, *names, *effects, found.share, found.q, found.verdict]
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def _told(effects: Effects) -> tuple[Floats, Floats, Floats]:
    """Value and 95% interval; NaN where nothing is told of the error."""
    return np.where(np.isnan(effects.freedom), np.nan, effects.value), *effects.interval()
