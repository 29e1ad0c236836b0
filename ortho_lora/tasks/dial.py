"""A twin of a task whose disagreement with the original is set by one number."""

from dataclasses import replace

import numpy as np

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Split, TaskData, hash_fraction


def make_twin(original: TaskData, rho: float, *, name: str, own_head: bool, seed: int) -> TaskData:
    """The same texts, in training and evaluation, each label flipped with probability `rho`.

    Whether a text's label flips depends on the text and the seed alone: on no order, and what is flipped at one
    `rho` is flipped at every larger one. With the original's head the two gradients have a cosine of about
    1 - 2 rho; a head of its own can absorb the flip.

    Raises OrthoLoraError where the original does not have exactly two classes or `rho` is outside [0, 1].
    """
    if original.kind != "classification" or len(original.classes) != 2:
        found = f"{len(original.classes)} classes" if original.classes else "a number to predict"
        raise OrthoLoraError(
            f"task {original.name!r} has {found}, and labels can be flipped only between two:"
            f" make {name!r} a twin of a task with two classes"
        )
    if not 0 <= rho <= 1:
        raise OrthoLoraError(f"rho of {name!r} is {rho}: expected a probability between 0 and 1")
    return replace(
        original,
        name=name,
        train=_flipped(original.train, rho, seed),
        evaluation={key: _flipped(split, rho, seed) for key, split in original.evaluation.items()},
        twin_of=original.name,
        shares_head=not own_head,
    )


def _flipped(split: Split, rho: float, seed: int) -> Split:
    flips = np.array([hash_fraction(key, f"dial {seed}") < rho for key in split.keys], dtype=bool)
    return replace(split, labels=np.where(flips, 1 - split.labels, split.labels))
