"""How gradients, projection and metrics answer to the conflict dial: a run for each probability of a flipped label."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.conflict.agreement import task_matrix
from analysis.conflict.replay import replay
from analysis.conflict.snapshots import WHOLE
from analysis.library.runs import final_metrics
from analysis.reading.database import Selection
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_run

_NAMES = {"cosine": "cosine", "cosine_low": "low", "cosine_high": "high"}


def answers(runs: Mapping[float, Path]) -> pd.DataFrame:
    """One row a run and branch, in the order of the dial.

    Args:
        runs: by probability of a flipped label; each of one task and its twin.

    Returns:
        rho, branch;
        cosine, low, high: that a verdict is on, of twins that of their batches, and its 95% interval;
        projected: share of the gradients that pcgrad on each block changes, 0 to 1, and removed: mean share of the norm
        that it takes, both of a replay of the recorded steps on all blocks;
        original, twin: last validation value of each task's primary metric; null: not evaluated.

    Raises:
        OrthoLoraError: a run is not of a task and its twin, or cannot be read.
    """
    frames = []
    for rho, run in sorted(runs.items()):
        info = read_run(run)
        if len(info.tasks) != 2 or info.tasks[1].twin_of != info.tasks[0].name:
            raise OrthoLoraError(f"{run}: expected a task and its twin, found {', '.join(info.task_names)}.")
        frame = task_matrix(run, Selection()).rename(columns=_NAMES)[["branch", *_NAMES.values()]]
        frame = frame[frame["branch"] != WHOLE]
        frame.insert(0, "rho", rho)
        replayed = replay(run, "pcgrad")
        values = final_metrics(run, info.tasks)
        original, twin = map(values.get, info.task_names)
        frames.append(
            frame.assign(projected=replayed.projected, removed=replayed.removed, original=original, twin=twin)
        )
    columns = ["rho", "branch", "cosine", "low", "high", "projected", "removed", "original", "twin"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
