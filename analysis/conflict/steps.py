"""Values of each step, as an array: a row a pair, a column a step."""

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.series import Floats


class BySteps:
    """A frame with a row for each key and step, as a row for each key and a column for each step."""

    def __init__(self, frame: pd.DataFrame, keys: Sequence[str]) -> None:
        self._frame = frame
        self._row = frame.groupby(list(keys), sort=False, observed=True).ngroup().to_numpy()
        self.steps, self._column = np.unique(frame["step"], return_inverse=True)
        self._keys = frame[list(keys)].drop_duplicates(ignore_index=True)
        self._shape = (len(self._keys), len(self.steps))
        self._chosen: NDArray[np.int64] | slice = slice(None)

    @property
    def keys(self) -> pd.DataFrame:
        """Of each row; a copy."""
        return self._keys.copy()

    def part(self, columns: NDArray[np.int64]) -> "BySteps":
        """Some of the steps, given by place, of all keys."""
        part = copy.copy(self)
        part.steps, part._chosen = self.steps[columns], columns
        return part

    def __getitem__(self, value: str) -> Floats:
        """The values of a column, [rows, steps]; NaN where the frame has none."""
        values = np.full(self._shape, np.nan)
        values[self._row, self._column] = self._frame[value].to_numpy(np.float64, na_value=np.nan)
        return values[:, self._chosen]


def means_of_bins(frame: pd.DataFrame) -> Floats:
    """A mean for each row of a frame and bin of steps, [rows, bins]; NaN where nothing was measured.

    Args:
        frame: of each row lists of `steps`, of `sums` and of `counts`; a bin may come several times. With names once a
            row, and not once a bin, it is read in half the time.
    """
    row = np.repeat(np.arange(len(frame)), frame["steps"].map(len))
    steps, column = np.unique(_joined(frame["steps"]), return_inverse=True)
    shape = (len(frame), len(steps))
    sums, counts = (
        np.bincount(row * len(steps) + column, _joined(frame[name]), np.prod(shape)).reshape(shape)
        for name in ("sums", "counts")
    )
    return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)


def _joined(lists: pd.Series) -> Floats:
    return np.concatenate([np.empty(0), *lists])
