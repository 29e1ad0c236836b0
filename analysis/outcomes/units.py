"""Differences of metrics as people say them: shares and correlations in points, hundredths; errors as they are."""

from analysis.outcomes.scores import LOWER_IS_BETTER


def scale(metric: str) -> int:
    """What a difference of this metric is multiplied by; of a mean of tasks the metrics are joined by `and`."""
    return 1 if metric.split(" and ")[0] in LOWER_IS_BETTER else 100


def amount(value: float, metric: str) -> str:
    """A signed difference, like `+0.4 points`."""
    return f"{100 * value:+.1f} points" if scale(metric) == 100 else f"{value:+.3g}"


def apart(value: float, metric: str) -> str:
    """Like `0.4 points above`."""
    return f"{amount(abs(value), metric).lstrip('+')} {'below' if value < 0 else 'above'}"


def range_of(low: float, high: float, metric: str) -> str:
    """Like `-0.3 to +1.1`, in the unit of `amount`."""
    return " to ".join(amount(end, metric).removesuffix(" points") for end in (low, high))
