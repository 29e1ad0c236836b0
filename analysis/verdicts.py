"""What a diagnosis says of a pair of tasks, as plain values; None: not known."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["conflict", "aligned", "indistinguishable from noise", "not enough data"]

MARKS: dict[Verdict, str] = {
    "conflict": "▼",
    "aligned": "▲",
    "indistinguishable from noise": "≈",
    "not enough data": "?",
}
"""Says a verdict beside its colour."""

WEAK, STRONG = 0.1, 0.3
"""Conventions, no laws: cosines up to the first are called weak, from the second on strong, else moderate."""


@dataclass(frozen=True)
class Place:
    """One block where a pair's cosine is clear after a correction for all blocks of all pairs."""

    layer: int
    module: str
    cosine: float  # mean over steps
    q: float  # Benjamini and Hochberg's adjusted p-value


@dataclass(frozen=True)
class Window:
    """The mean cosine of some consecutive recorded steps, with its own 95% interval."""

    first: int
    last: int
    cosine: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Branch:
    """A pair on one branch; means over blocks and steps, 95% intervals."""

    branch: str
    verdict: Verdict
    steps: int  # with a cosine
    effective_steps: float | None  # independent steps that these are worth
    cosine: float | None  # raw, of batches
    cosine_low: float | None
    cosine_high: float | None
    p_holm: float | None  # of a mean of 0, corrected for all pairs and branches of the run
    corrected: float | None  # for batch noise; never for tasks that draw the same texts
    corrected_low: float | None
    corrected_high: float | None
    conflict_rate: float | None  # share of negative cosines; chance gives half
    rate_low: float | None
    rate_high: float | None
    steps_to_exclude_zero: int | None  # more of them, if the cosine is as found; 0: it is excluded
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
    cosine_after: float | None
    conflict_rate_after: float | None

    @property
    def strength(self) -> float | None:
        """The corrected cosine where it is known, else the raw one."""
        return self.cosine if self.corrected is None else self.corrected


@dataclass(frozen=True)
class Harm:
    """The two tasks' gradients on all blocks together, and whether condition (a) of PCGrad's Theorem 2 holds of them.

    `norm_ratio` (n_i / n_j) and `magnitude_similarity` (2 n_i n_j / (n_i^2 + n_j^2)) are of the gradients without batch
    noise where `from_corrected`, else of batches.
    """

    cosine: float | None
    cosine_low: float | None
    cosine_high: float | None
    corrected: float | None
    corrected_low: float | None
    corrected_high: float | None
    norm_ratio: float | None
    magnitude_similarity: float | None
    from_corrected: bool
    enough: bool | None  # cosine <= -magnitude similarity, of these means
    share_of_steps: float | None  # in which the batches' gradients had it

    @property
    def strength(self) -> float | None:
        """The corrected cosine where it is known, else the raw one."""
        return self.cosine if self.corrected is None else self.corrected


@dataclass(frozen=True)
class Pair:
    """A pair of tasks."""

    task_i: str
    task_j: str
    verdict: Verdict
    shares_texts: bool  # one is the other's twin: their raw cosine is the right one
    whole: Harm
    branches: tuple[Branch, ...]

    @property
    def strongest(self) -> Branch:
        """The branch that shows the verdict most clearly."""
        alike = [branch for branch in self.branches if branch.verdict == self.verdict]
        return max(alike, key=lambda branch: abs(branch.strength or 0.0))


def worst_first(pair: Pair) -> tuple[int, float]:
    """Key: conflicts first, the strongest first; then those aligned; the others as they are configured."""
    told = pair.verdict in ("conflict", "aligned")
    return list(MARKS).index(pair.verdict), -abs(pair.strongest.strength or 0.0) if told else 0.0


def strength_word(cosine: float) -> str:
    """`weak`, `moderate` or `strong`."""
    return "weak" if abs(cosine) < WEAK else "moderate" if abs(cosine) < STRONG else "strong"
