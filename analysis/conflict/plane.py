"""Two or three gradients as arrows that can be drawn: exact in their own span, from their Gram matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reading.database import Selection, ask
from analysis.statistics.series import Floats
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import layer_name
from ortho_lora.record.schema import read_run


@dataclass(frozen=True)
class Block:
    """One LoRA matrix, with the cosine that a pair of tasks has there in one step; None: not measured."""

    layer: int
    module: str
    branch: str
    cosine: float | None


def coordinates(gram: Floats) -> Floats:
    """Arrows whose inner products are `gram`, to rounding: lengths, angles and all that a rule does are exact.

    The first arrow points right, the second lies in the plane of the picture with its tip above the first or on its
    line, the third's tip towards whoever looks: two arrows are always exact in the picture, and a third sticks out.

    Args:
        gram: [T, T], symmetric, positive semi-definite to rounding.

    Returns:
        [T, T], an arrow a row; its components beyond the arrow's own place are 0.
    """
    length = np.sqrt(np.diagonal(gram).clip(min=0))
    # Of the directions, so that a gradient much shorter than another keeps its digits.
    scale = np.where(length > 0, length, 1.0)
    values, vectors = np.linalg.eigh(gram / scale[:, None] / scale[None])
    triangle = np.linalg.qr((vectors * np.sqrt(values.clip(min=0))).T).R.T
    signs = np.where(np.diagonal(triangle) < 0, -1.0, 1.0)
    arrows: Floats = triangle * signs * length[:, None]
    return arrows


def share_in_picture(arrows: Floats) -> Floats:
    """[T], the share of each arrow's length that its first two components have; NaN where it has none."""
    whole = np.linalg.norm(arrows, axis=1)
    return np.divide(np.linalg.norm(arrows[:, :2], axis=1), whole, out=np.full(len(arrows), np.nan), where=whole > 0)


def step_blocks(run: Path, step: int, pair: Sequence[str]) -> list[Block]:
    """The blocks of one step, the one where the pair's cosine is lowest first.

    Raises:
        OrthoLoraError: the step is not recorded, or has not both tasks.
    """
    rows = ask(
        run,
        ["pairs"],
        """
        SELECT layer, module, branch, cos_before FROM pairs
        WHERE task_i IN ($one, $other) AND task_j IN ($one, $other)
        ORDER BY cos_before NULLS LAST, layer, module, branch
        """,
        Selection(steps=(step, step)),
        {"one": pair[0], "other": pair[1]},
    )
    if rows.empty:
        raise OrthoLoraError(f"{run}: step {step} holds no cosine of {' and '.join(pair)}: choose another step.")
    return [
        Block(int(row.layer), str(row.module), str(row.branch), None if pd.isna(row.cos_before) else row.cos_before)
        for row in rows.itertuples()
    ]


def step_gram(run: Path, step: int, block: Block) -> tuple[list[str], Floats]:
    """The tasks of one block in one step, in configuration order, and their Gram matrix K_ij = cos_ij n_i n_j, [T, T].

    A null cosine is that of a gradient that is zero.

    Raises:
        OrthoLoraError: the step or the block is not recorded.
    """
    selection = Selection((step, step), (block.layer,), (block.module,), (block.branch,))
    norms = ask(run, ["norms"], "SELECT task, norm_before FROM norms", selection).set_index("task")["norm_before"]
    pairs = ask(run, ["pairs"], "SELECT task_i, task_j, cos_before FROM pairs", selection)
    names = [name for name in read_run(run).task_names if name in norms.index]
    if not names:
        raise OrthoLoraError(
            f"{run}: step {step} has no gradients of layer {layer_name(block.layer)} {block.module} {block.branch}:"
            " choose another."
        )
    cosine = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in pairs.itertuples():
        cosine.loc[row.task_i, row.task_j] = cosine.loc[row.task_j, row.task_i] = row.cos_before
    length = np.nan_to_num(norms.loc[names].to_numpy(np.float64))
    return names, np.nan_to_num(cosine.to_numpy(np.float64)) * length[:, None] * length[None]
