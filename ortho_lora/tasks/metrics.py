"""Metrics by name, from scikit-learn and SciPy, defined for every prediction.

Labels and predictions are class indices (int64) or numbers (float32), each [N] with N >= 1. Classes that do not occur
still count. A prediction that is the same for every example has a correlation of 0 with anything, and a metric of
predictions that are not finite is NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortho_lora.tasks.data import Split, TaskData

Values = NDArray[Any]


def _accuracy(labels: Values, predictions: Values, _: int) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _macro_f1(labels: Values, predictions: Values, classes: int) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, labels=range(classes), average="macro", zero_division=0))


def _f1(labels: Values, predictions: Values, _: int) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, labels=[1], average="macro", zero_division=0))


def _matthews(labels: Values, predictions: Values, _: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions)) if _vary(labels, predictions) else 0.0


def _pearson(labels: Values, predictions: Values, _: int) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(labels, predictions).statistic) if _vary(labels, predictions) else 0.0


def _spearman(labels: Values, predictions: Values, _: int) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(labels, predictions).statistic) if _vary(labels, predictions) else 0.0


def _rmse(labels: Values, predictions: Values, _: int) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(labels, predictions))


def _r2(labels: Values, predictions: Values, _: int) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(labels, predictions)) if _vary(labels) else 0.0  # nothing to explain


def _vary(*values: Values) -> bool:
    return all(np.ptp(of_one) > 0 for of_one in values)


METRICS: dict[str, Callable[[Values, Values, int], float]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "f1": _f1,  # of class 1
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "rmse": _rmse,
    "r2": _r2,
}
"""Name -> function of (labels [N], predictions [N], number of classes)."""


def score(metrics: Sequence[str], labels: Values, predictions: Values, classes: Sequence[str]) -> dict[str, float]:
    """The named metrics of predictions [N] against labels [N]; `classes` is empty for regression."""
    if not np.isfinite(predictions).all():
        return dict.fromkeys(metrics, float("nan"))
    if not classes:  # sums in float32 would lose digits
        labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    return {name: METRICS[name](labels, predictions, len(classes)) for name in metrics}


def majority_baseline(data: TaskData, evaluation: Mapping[str, Split] | None = None) -> dict[str, dict[str, float]]:
    """What the task's metrics are for the most frequent class, or the mean, of the training split.

    Returns split -> metric -> value, for the splits of `evaluation` or, without it, of the task.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor

    dummy = DummyClassifier(strategy="most_frequent") if data.kind == "classification" else DummyRegressor()
    dummy.fit(np.zeros((len(data.train), 1)), data.train.labels)
    return {
        name: score(data.metrics, split.labels, dummy.predict(np.zeros((len(split), 1))), data.classes)
        for name, split in (data.evaluation if evaluation is None else evaluation).items()
    }
