"""Metrics of many resamples of the same examples at once.

A resample is a weight for each example, how often it was drawn. The metrics are those of a record by the same names,
and with weights of one have the same values.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.series import Floats

Weights = NDArray[np.float32]
"""Times that each example was drawn, [resamples, examples]."""


def resampled(metric: str, targets: Floats, predictions: Floats, weights: Weights, classes: int = 0) -> Floats | None:
    """A metric of each resample, [resamples].

    Args:
        metric: its name.
        targets: class indices or numbers, [examples].
        predictions: the same, [examples].
        weights: of the resamples; one of few examples that drew none of them is the examples themselves.
        classes: of the task; 0: regression.

    Returns:
        None for a metric that is not known here, and where a prediction is not finite.
    """
    if not np.isfinite(predictions).all():
        return None
    weights = np.where(weights.any(axis=1, keepdims=True), weights, np.float32(1))
    if metric in _OF_CLASSES:
        every = np.arange(max(classes, 1 + int(max(targets.max(), predictions.max()))))
        is_target, is_predicted = (values[:, None] == every for values in (targets, predictions))  # [examples, classes]
        counts = np.concatenate([is_target & is_predicted, is_target, is_predicted], axis=1)
        hits, true, said = np.split((weights @ counts.astype(weights.dtype)).astype(np.float64), 3, axis=1)
        return _OF_CLASSES[metric](hits, true, said)
    if metric in _OF_NUMBERS:
        return _OF_NUMBERS[metric](targets.astype(np.float64), predictions.astype(np.float64), weights)
    return None


# Of classes: hits, true and said examples of each class, [resamples, classes].


def _accuracy(hits: Floats, true: Floats, _: Floats) -> Floats:
    return hits.sum(axis=1) / true.sum(axis=1)


def _f1_by_class(hits: Floats, true: Floats, said: Floats) -> Floats:
    return _ratio(2 * hits, true + said)


def _matthews(hits: Floats, true: Floats, said: Floats) -> Floats:
    every = true.sum(axis=1)
    above = hits.sum(axis=1) * every - (true * said).sum(axis=1)
    below = (every**2 - (true**2).sum(axis=1)) * (every**2 - (said**2).sum(axis=1))
    return _ratio(above, np.sqrt(below))


# Of numbers: targets and predictions [examples], weights [resamples, examples].


def _mean(values: Floats, weights: Weights) -> Floats:
    """Of each resample; of values [examples] or [resamples, examples]."""
    return (weights * values).sum(axis=1) / weights.sum(axis=1)


def _pearson(targets: Floats, predictions: Floats, weights: Weights) -> Floats:
    one, other = (values - _mean(values, weights)[:, None] for values in (targets, predictions))
    return _ratio(_mean(one * other, weights), np.sqrt(_mean(one**2, weights) * _mean(other**2, weights)))


def _spearman(targets: Floats, predictions: Floats, weights: Weights) -> Floats:
    return _pearson(_ranks(targets, weights), _ranks(predictions, weights), weights)


def _ranks(values: Floats, weights: Weights) -> Floats:
    """Rank of each example within each resample, ties at their mean, [resamples, examples]."""
    place = np.unique(values, return_inverse=True)[1]
    drawn = weights @ (place[:, None] == np.arange(place.max() + 1)).astype(weights.dtype)  # [resamples, values]
    ranks: Floats = (np.cumsum(drawn, axis=1) - drawn / 2 + 0.5)[:, place]
    return ranks


def _rmse(targets: Floats, predictions: Floats, weights: Weights) -> Floats:
    return np.sqrt(_mean((targets - predictions) ** 2, weights))


def _r2(targets: Floats, predictions: Floats, weights: Weights) -> Floats:
    spread = _mean((targets - _mean(targets, weights)[:, None]) ** 2, weights)
    left = _mean((targets - predictions) ** 2, weights)
    return np.where(spread > 0, 1 - _ratio(left, spread), 0.0)


def _ratio(above: Floats, below: Floats) -> Floats:
    """0 where there is nothing to divide by, as in the record."""
    found: Floats = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    return found


_OF_CLASSES: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": lambda *counts: _f1_by_class(*counts)[:, 1],
    "macro_f1": lambda *counts: _f1_by_class(*counts).mean(axis=1),
    "matthews": _matthews,
}
_OF_NUMBERS: dict[str, Callable[[Floats, Floats, Weights], Floats]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "rmse": _rmse,
    "r2": _r2,
}
