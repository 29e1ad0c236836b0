"""What a diagnosis says of a pair of tasks, as plain values; None: not known."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from analysis.conflict.snapshots import WHOLE
from ortho_lora.record.judge import MARKS, TOLD, WORTH, Verdict

STRONG = 0.5
"""A convention, no law: cosines from here on are called strong, up to `WORTH` weak, else moderate."""


@dataclass(frozen=True)
class Place:
    """One block where a pair's cosine is clear after a correction for all blocks of all pairs."""

    layer: int
    module: str
    cosine: float | None  # of a snapshot, or mean of batches; None: only its side of 0 is known
    q: float  # Benjamini and Hochberg's adjusted p-value


@dataclass(frozen=True)
class Window:
    """Some consecutive recorded steps, or the step of a snapshot."""

    first: int
    last: int
    cosine: float | None
    low: float | None  # 95% interval
    high: float | None
    batch_cosine: float | None  # mean of the batches'


@dataclass(frozen=True)
class Agreement:
    """How a pair agrees on a branch, or on both together, over blocks and steps, and the verdict; 95% intervals."""

    branch: str
    verdict: Verdict
    snapshot: int | None  # last step of those that cosine and verdict are of; None: of half batches of the steps
    steps: int  # with a cosine
    cosine: float | None  # of the tasks' mean gradients: the verdict is on it; None where only its interval is known
    cosine_low: float | None
    cosine_high: float | None
    q: float | None  # of a cosine of 0, adjusted for all pairs and branches
    more_steps: int | None  # or batches, until there is a verdict; None: not known, or over 1000 times as many
    batch_cosine: float | None  # mean of single batches, blocks and steps
    batch_low: float | None
    batch_high: float | None
    conflict_rate: float | None  # share of negative cosines; chance gives half
    rate_low: float | None
    rate_high: float | None

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "Agreement":
        """From a row of `agreement.agreement`, or of `queries.task_matrix`."""
        before = "_before" if "cos_before" in row else ""
        names = {"batch_cosine": f"cos{before}", "batch_low": "cos_low", "batch_high": "cos_high"}
        names |= {"conflict_rate": f"rate{before}", "more_steps": "more"}
        known: dict[str, Any] = {field.name: row.get(names.get(field.name, field.name)) for field in fields(cls)}
        kinds = {"branch": str, "verdict": str, "snapshot": int, "steps": int, "more_steps": int}
        for name, value in known.items():
            known[name] = None if pd.isna(value) else kinds.get(name, float)(value)
        return cls(**known)

    @property
    def measured(self) -> bool:
        """Whether there is anything that a verdict could be on."""
        return self.steps > 0 if self.snapshot is None else self.cosine_low is not None

    @property
    def at_least(self) -> float:
        """The cosine, or where only its side of 0 is known the end nearest to 0; 0 where not even that is."""
        if self.cosine is not None:
            return self.cosine
        low, high = self.cosine_low or 0.0, self.cosine_high or 0.0
        return low if low > 0 else min(high, 0.0)


@dataclass(frozen=True)
class Branch(Agreement):
    """The same with where and when, and what the rule did."""

    since: int | None  # first step of the first window that is clear by itself
    until: int | None  # last step of the last such window
    windows: tuple[Window, ...]
    blocks: int  # measured
    blocks_clear: int  # clear, and of the verdict's sign
    places: tuple[Place, ...]  # the strongest of these
    projected_i: float | None  # share of the cosines at which task_i was projected against task_j
    projected_j: float | None
    removed_i: float | None  # mean share of task_i's norm that such a projection alone takes
    removed_j: float | None
    cosine_after: float | None  # mean of single batches
    conflict_rate_after: float | None


@dataclass(frozen=True)
class Harm:
    """The two tasks' gradients on all blocks together, and whether condition (a) of PCGrad's Theorem 2 holds of them.

    `norm_ratio` (n_i / n_j) and `magnitude_similarity` (2 n_i n_j / (n_i^2 + n_j^2)) are of the gradients without batch
    noise where `from_signal`, else of batches.
    """

    cosine: float | None  # in the gradients' own space
    norm_ratio: float | None
    magnitude_similarity: float | None
    from_signal: bool
    enough: bool | None  # cosine <= -magnitude similarity
    share_of_steps: float | None  # in which the batches' gradients had it


@dataclass(frozen=True)
class Pair:
    """A pair of tasks, the gradients on all blocks taken as one; of a snapshot the verdict is on that."""

    task_i: str
    task_j: str
    cosine: float | None
    low: float | None  # 95% interval
    high: float | None
    verdict: Verdict
    shares_texts: bool  # one is the other's twin: without a snapshot the cosine is that of their batches
    whole: Harm
    branches: tuple[Branch, ...]

    @property
    def strongest(self) -> Branch:
        """The branch that shows the verdict most clearly."""
        alike = [branch for branch in self.branches if branch.verdict == self.verdict] or list(self.branches)
        return max(alike, key=lambda branch: abs(branch.at_least))


def worst_first(pair: Pair) -> tuple[int, float]:
    """Key: conflicts first, the strongest first; then those aligned; the others as they are configured."""
    return list(MARKS).index(pair.verdict), -abs(pair.strongest.at_least) if pair.verdict in TOLD else 0.0


def measured(matrix: pd.DataFrame) -> pd.DataFrame:
    """The rows of `queries.task_matrix` of which there is anything: steps with a cosine, or a snapshot."""
    return matrix[(matrix["steps"] > 0) | matrix["snapshot"].notna()]


def worst_row(matrix: pd.DataFrame) -> dict[Any, Any]:
    """Of `queries.task_matrix`, or `snapshot_matrix`, the row of the worst verdict and of these the lowest cosine.

    Where a snapshot tells of the whole model, of those rows.
    """
    whole = matrix[matrix["branch"] == WHOLE]
    chosen = whole if len(whole) else matrix
    order = chosen.assign(
        rank=chosen["verdict"].map({verdict: place for place, verdict in enumerate(MARKS)}),
        least=[Agreement.of(row).at_least for row in chosen.to_dict("records")],
    )
    by = [name for name in ("rank", "least", "cos_before") if name in order]
    first = order.sort_values(by, kind="stable").iloc[0]
    return first.drop(["rank", "least"]).to_dict()


def worst_pair(matrix: pd.DataFrame) -> tuple[str, str]:
    """The pair of that row."""
    row = worst_row(matrix)
    return row["task_i"], row["task_j"]


def strength_word(cosine: float) -> str:
    """`weak`, `moderate` or `strong`."""
    return "weak" if abs(cosine) < WORTH else "moderate" if abs(cosine) < STRONG else "strong"
