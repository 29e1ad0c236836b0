"""What layers, steps, methods and numbers look like wherever they are shown."""

from collections.abc import Iterable, Sequence
from math import isnan

WHOLE = "both"
"""Stands for a branch where both count together: the whole model."""


def branch_name(branch: str) -> str:
    """Like `branch A`."""
    return "whole model" if branch == WHOLE else f"branch {branch}"


def branch_title(branch: str) -> str:
    """The same where it begins."""
    return "Whole model" if branch == WHOLE else f"Branch {branch}"


def branch_cell(branch: str) -> str:
    """In a column of branches."""
    return "whole" if branch == WHOLE else branch


def branches_of(names: Iterable[str]) -> list[str]:
    """Each once: the whole model first, then A and B."""
    return sorted({*names}, key=lambda name: (name != WHOLE, name))


def span(first: int, last: int) -> str:
    """`step 3` or `steps 3 to 8`."""
    return f"step {first}" if first == last else f"steps {first} to {last}"


def snapshots_at(steps: Sequence[int]) -> str:
    """`the snapshot at step 8`, or `the snapshots at steps 4 and 8`."""
    if len(steps) == 1:
        return f"the snapshot at step {steps[0]}"
    return f"the snapshots at steps {', '.join(map(str, steps[:-1]))} and {steps[-1]}"


def method_name(rule: str, scope: str, branches: str) -> str:
    """Like `pcgrad @ block, A only`; the plain sum is the same at every scope."""
    if rule == "sum":
        return "sum"
    return f"{rule} @ {scope}{'' if branches == 'both' else f', {branches} only'}"


def number(value: float | None, style: str = "+.2f") -> str:
    """A number as text; a dash: not known."""
    return "–" if value is None or isnan(value) else f"{value:{style}}"


def interval(low: float | None, high: float | None, style: str = "+.2f") -> str:
    """Like `-0.31 to +0.12`."""
    return "–" if low is None or high is None or isnan(low) else f"{low:{style}} to {high:{style}}"


def nats_unit(largest: float) -> tuple[float, str]:
    """In what small losses are told, and how many of it are a nat: `mnat` (thousandths), or what fits the largest."""
    if not largest < 1:  # also not known
        return 1.0, "nat"
    return (1e3, "mnat") if largest >= 1e-4 or largest == 0 else (1e6, "µnat")
