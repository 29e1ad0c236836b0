"""What a task is, once loaded: texts, labels and a split that never changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.study import SELECTION_SPLIT

Kind = Literal["classification", "regression"]

VALIDATION_SHARE = 0.2
METRICS_OF_KIND: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("r2", "rmse", "spearman"),
}
"""What is evaluated unless told."""
FITTING: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews", "f1"),
    "regression": ("r2", "rmse", "spearman", "pearson"),
}
"""What can be; `f1` of two classes only."""


@dataclass(frozen=True)
class Split:
    """N examples."""

    texts: list[str]
    labels: NDArray[np.int64] | NDArray[np.float32]
    """Class indices (int64) or regression targets (float32), [N]."""
    text_pairs: list[str] | None = None
    """Second texts, for tasks on pairs."""
    groups: list[str] | None = None
    """What each example is of, as a film, an author or a document; None: of its texts alone."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def keys(self) -> list[str]:
        """What tells examples apart: the normalised texts."""
        return [normalise(*texts) for texts in zip(self.texts, self.text_pairs or [""] * len(self), strict=True)]

    @property
    def origins(self) -> list[str]:
        """What may not be parted: an example's group, else its normalised texts, whatever task they are of."""
        return self.keys if self.groups is None else self.groups


@dataclass(frozen=True)
class TaskData:
    """A task, ready to train and to evaluate."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    """Name of each class index; empty for regression."""
    train: Split
    evaluation: dict[str, Split]
    """`validation`, for MNLI also `validation_mismatched`; `selection` where a share is set apart."""
    metrics: tuple[str, ...]
    """Names in `ortho_lora.tasks.metrics.METRICS`; the first is the primary one."""
    twin_of: str | None = None
    """Name of the task whose texts this one draws, in the same step."""
    shares_head: bool = False
    """With `twin_of`: also uses that task's head."""
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many rows of the data were left out, by split (what is held out is of `train`) and reason."""

    @property
    def outputs(self) -> int:
        """Number of the head's outputs."""
        return len(self.classes) or 1


def normalise(text: str, text_pair: str = "") -> str:
    """The text without differences of case and white space, which make no new example."""
    first = _plain(text)
    second = _plain(text_pair) if text_pair else ""
    return f"{first}\0{second}" if second else first


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def hash_fraction(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments; different purposes give independent ones."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # the 53 bits that a float holds


def is_validation(key: str, share: float = VALIDATION_SHARE) -> bool:
    """Whether the example with this text is held out.

    Read from a hash of the normalised text: it needs no seed, no order and no other example, so that adding rows
    moves none, and a text that occurs twice is never in both splits.
    """
    return hash_fraction(normalise(key), "split") < share


def first_of_each(keys: Iterable[object]) -> list[int]:
    """Indices of the first occurrence of each key, in order."""
    first: dict[object, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return list(first.values())


def take(split: Split, indices: Sequence[int]) -> Split:
    """The examples of `split` at `indices`."""
    pairs = None if split.text_pairs is None else [split.text_pairs[i] for i in indices]
    groups = None if split.groups is None else [split.groups[i] for i in indices]
    return Split([split.texts[i] for i in indices], split.labels[list(indices)], pairs, groups)


def hold_out(split: Split) -> tuple[Split, Split]:
    """(train, validation) of `split` by `is_validation` of each example's group, or texts where it has none."""
    origins = split.origins
    held_out = {origin: is_validation(origin) for origin in set(origins)}
    return _parted(split, [held_out[origin] for origin in origins])


def with_selection(task: TaskData, share: float) -> TaskData:
    """The task with this share of its `validation` split as a split of its own, chosen by a hash of the texts.

    Raises OrthoLoraError where one of the two would be empty.
    """
    if not share:
        return task
    validation = task.evaluation["validation"]
    rest, selection = _parted(validation, [hash_fraction(key, "selection") < share for key in validation.keys])
    for name, part in {"validation": rest, SELECTION_SPLIT: selection}.items():
        if not len(part):
            raise OrthoLoraError(
                f"selection_share: {share:g} of the {len(validation)} validation examples of {task.name!r} leaves none"
                f" for {name}: give more examples, or another share"
            )
    return replace(task, evaluation={**task.evaluation, "validation": rest, SELECTION_SPLIT: selection})


def _parted(split: Split, chosen: Sequence[bool]) -> tuple[Split, Split]:
    """(the others, the chosen)."""
    others = take(split, [index for index, out in enumerate(chosen) if not out])
    return others, take(split, [index for index, out in enumerate(chosen) if out])
