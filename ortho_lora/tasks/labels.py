"""What the labels of a task are: class indices, or targets of a regression."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Kind

MOST_CLASSES = 50
"""With kind `auto`, more distinct labels than these are no classes."""
LARGEST_TARGET, SMALLEST_SPREAD = 1e3, 1e-3
"""Of a regression. A head starts at 0 and an optimizer's step moves it by about its learning rate: larger targets are
not reached, smaller differences are lost between two steps."""


@dataclass(frozen=True)
class Labels:
    """The labels of N rows, none of them empty."""

    where: str
    """What errors call them, like `column 'label' of reviews.csv`."""
    values: list[object]
    rows: list[int]
    """The data row of each in its table, from 1."""

    def __post_init__(self) -> None:
        for value, row in zip(self.values, self.rows, strict=True):
            if not isinstance(value, str | bool | int | float | Decimal | np.generic):
                raise OrthoLoraError(
                    f"{self.where} holds {_short(value)} in data row {row}: expected a word, a truth value or a number"
                    " in each row; name another column"
                )

    def first(self, wrong: Iterable[bool]) -> str:
        """The first that is wrong, like `'x' in data row 3`, and how many more are."""
        found = [index for index, is_wrong in enumerate(wrong) if is_wrong]
        more = f" (and {len(found) - 1} more rows)" if len(found) > 1 else ""
        return f"{_short(self.values[found[0]])} in data row {self.rows[found[0]]}{more}"


def kind_and_classes(
    labels: Labels, kind: Literal["auto", Kind], classes: Sequence[str] = ()
) -> tuple[Kind, Sequence[str]]:
    """What the labels are, and the names of the classes, sorted (whole numbers by value) where none are given.

    Raises OrthoLoraError where `auto` cannot tell, or there are fewer than two classes.
    """
    if classes:
        return "classification", classes
    if kind == "auto":
        kind = _kind(labels)
    if kind == "regression":
        return kind, ()
    names = {class_name(value) for value in labels.values}
    try:
        found = sorted(names, key=int)
    except ValueError:
        found = sorted(names)
    if len(found) < 2:
        raise OrthoLoraError(f"{labels.where} has the label {found[0]!r} in every row: expected at least two classes")
    return kind, found


def _kind(labels: Labels) -> Kind:
    truth = [isinstance(value, bool | np.bool_) for value in labels.values]
    if any(truth) and not all(truth):
        raise OrthoLoraError(
            f"{labels.where} mixes truth values with others, as {labels.first(not is_one for is_one in truth)}: write"
            " all in one way, or say kind: classification if they are meant"
        )
    numbers = _numbers(labels)
    finite = np.isfinite(numbers)
    if finite.any() and not finite.all():
        stray = labels.values[int(np.argmin(finite))]
        raise OrthoLoraError(
            f"{labels.where} holds {labels.first(~finite)} among numbers: correct it, leave such rows out with"
            f" drop_labels: [{class_name(stray)!r}], or say kind: classification if it is a class"
        )
    if finite.all() and (numbers % 1 != 0).any():
        return "regression"
    differ = len({class_name(value) for value in labels.values})
    if differ <= MOST_CLASSES:
        return "classification"
    if finite.all():
        raise OrthoLoraError(
            f"{labels.where} has {differ} different whole numbers, which may be classes or amounts: say"
            " kind: classification or kind: regression"
        )
    raise OrthoLoraError(
        f"{labels.where} has {differ} different labels, expected at most {MOST_CLASSES}: name another column, or say"
        " kind: classification if they are meant"
    )


def class_indices(labels: Labels, classes: Sequence[str]) -> NDArray[np.int64]:
    """`[N]`. Raises OrthoLoraError for a label that is none of the classes."""
    index = {class_name(name): position for position, name in enumerate(classes)}
    names = [class_name(value) for value in labels.values]
    if strange := next((name for name in names if name not in index), None):
        raise OrthoLoraError(
            f"{labels.where} holds {labels.first(name == strange for name in names)}, which is none of the training"
            f" labels {', '.join(classes)}: correct it, leave such rows out with drop_labels: [{strange!r}], or add"
            " training examples of it"
        )
    return np.array([index[name] for name in names], dtype=np.int64)


def targets(labels: Labels, training: Labels | None = None) -> NDArray[np.float32]:
    """`[N]`; `training` are those trained on, where these are to be evaluated on.

    Raises OrthoLoraError for what is no finite number, and for numbers that training would not reach.
    """
    numbers = _numbers(labels)
    if not np.isfinite(numbers).all():
        raise OrthoLoraError(
            f"{labels.where} holds labels that are no finite numbers, {labels.first(~np.isfinite(numbers))}: correct"
            " them, leave such rows out with drop_labels, or say kind: classification"
        )
    large = np.abs(numbers) > LARGEST_TARGET
    scale = "give (value - mean) / standard deviation in its place"
    if large.any():
        raise OrthoLoraError(
            f"{labels.where} holds {labels.first(large)} and the mean {numbers.mean():.3g}: expected targets between"
            f" {-LARGEST_TARGET:g} and {LARGEST_TARGET:g}, which training can reach from 0; {scale}"
        )
    if training is None:
        if np.ptp(numbers) == 0:
            raise OrthoLoraError(f"{labels.where} has the target {numbers[0]:g} in every row: nothing to learn")
        if numbers.std() < SMALLEST_SPREAD:
            raise OrthoLoraError(
                f"{labels.where} has targets with a standard deviation of {numbers.std():.3g}, expected at least"
                f" {SMALLEST_SPREAD:g}: {scale}"
            )
    elif np.ptp(numbers) > 10 * np.ptp(trained := _numbers(training)) or _apart(numbers, trained):
        raise OrthoLoraError(
            f"{labels.where} has targets from {numbers.min():g} to {numbers.max():g}, and those to train on are from"
            f" {trained.min():g} to {trained.max():g}: give both in one unit"
        )
    return numbers.astype(np.float32)


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool(one.min() > other.max() or one.max() < other.min())


@lru_cache(maxsize=100_000, typed=True)  # True and 1 are two labels
def class_name(value: object) -> str:
    """Whole numbers have one name however they are written, 1, 1.0 or "01"; so have words with more white space."""
    text = " ".join(str(value).split())
    whole = re.fullmatch(r"([+-]?\d{1,300})(\.0*)?", text)
    return str(int(whole[1])) if whole else text


def _numbers(labels: Labels) -> NDArray[np.float64]:
    """`[N]`, NaN for what is none; truth values are words here."""
    return np.array([_number(value) for value in labels.values], dtype=np.float64)


def _number(value: object) -> float:
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return np.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return np.inf
    except (ValueError, TypeError):
        return np.nan


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
