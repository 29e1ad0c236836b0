"""How often the intervals of a snapshot hold the truth, on texts whose gradients' true means are known.

    python benchmarks/snapshot_coverage.py --quick

Tasks' true gradients lie in a plane, so their cosines are those of the angles between them. A text's gradient is its
task's own plus noise of `DIMENSIONS` coordinates with heavy tails (Student's t with 3 degrees of freedom) and a length
that varies by a factor of e^0.5 from text to text. Texts fall into groups at random; a batch of 16 lies inside one
group and goes through its texts round after round, so small pools are gone through many times. Tasks that share texts
share half of their noise. Norms lie between 1 and 20.

- covered: intervals that hold the true cosine, of all pairs of different tasks.
- narrow: of those narrower than 0.5, and how many of all those are.
- width: their median.
- bias: mean error of U_ij over all pairs, norms taken out, in its standard deviation from snapshot to snapshot.
- wrong: pairs at a cosine of 0 or more told as conflicts, or at 0 or less as aligned, by the judge, of those told.

A second table pools all settings, by the true cosine.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from ortho_lora.record.jackknife import Floats
from ortho_lora.record.judge import Estimates, judge
from ortho_lora.record.products import cosines, of_means

BATCH, DIMENSIONS, MOST_GROUPS = 16, 128, 32
COUNTS = (16, 64, 256)  # of batches


class Setting(NamedTuple):
    """What is simulated."""

    batches: int  # of each task
    share: float  # of a batch's squared gradient that is the task's own
    tasks: int = 3
    texts: int = 5000
    shared: bool = False  # whether tasks share texts
    unequal: bool = True  # whether norms differ


class Shares(NamedTuple):
    """What comes of it."""

    covered: float
    narrow: float
    narrow_share: float
    width: float
    bias: float
    wrong: float
    told: float


class Pairs(NamedTuple):
    """Of a snapshot, or of many."""

    truth: Floats  # the cosine
    low: Floats  # the interval's ends
    high: Floats
    p: Floats
    error: Floats  # of U_ij, norms taken out

    @property
    def inside(self) -> NDArray[np.bool_]:
        return (self.low <= self.truth) & (self.truth <= self.high)

    @property
    def narrow(self) -> NDArray[np.bool_]:
        return self.high - self.low < 0.5


SETTINGS = [
    *(Setting(n, share) for share in (0.01, 0.05, 0.2) for n in COUNTS),
    *(Setting(n, 0.05, tasks) for tasks in (2, 10) for n in COUNTS),
    *(Setting(n, 0.05, texts=texts) for texts in (250, 1000) for n in COUNTS),
    *(Setting(n, share, texts=texts, shared=True) for share in (0.05, 0.2) for texts in (250, 5000) for n in COUNTS),
]
TRUTHS = (-1.0, -0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.0)


def simulate(setting: Setting, snapshots: int, rng: np.random.Generator) -> list[Pairs]:
    """Take so many snapshots, each of tasks of its own."""
    return [_snapshot(setting, rng) for _ in range(snapshots)]


def together(found: Sequence[Pairs]) -> Pairs:
    """The pairs of all snapshots."""
    return Pairs(*(np.concatenate(of) for of in zip(*found, strict=True)))


def shares(found: Sequence[Pairs]) -> Shares:
    """What came of the snapshots of a setting; each is judged by itself."""
    pairs = together(found)
    verdict = np.concatenate([judge(Estimates(of.low, of.high, of.p)).verdict for of in found])
    told = (verdict == "conflict") | (verdict == "aligned")
    wrong = ((verdict == "conflict") & (pairs.truth >= 0)) | ((verdict == "aligned") & (pairs.truth <= 0))
    return Shares(
        float(pairs.inside.mean()),
        float(pairs.inside[pairs.narrow].mean()) if pairs.narrow.any() else np.nan,
        float(pairs.narrow.mean()),
        float(np.median(pairs.high - pairs.low)),
        float(pairs.error.mean() / pairs.error.std()),
        float(wrong.sum() / max(told.sum(), 1)),
        float(told.mean()),
    )


def by_truth(pairs: Pairs) -> list[dict[str, float]]:
    """Coverage where the true cosine lies between two."""
    found = []
    for low, high in itertools.pairwise(TRUTHS):
        here = (low <= pairs.truth) & (pairs.truth < high)
        narrow = here & pairs.narrow
        covered, of_narrow = (float(pairs.inside[of].mean()) if of.any() else np.nan for of in (here, narrow))
        found.append({"from": low, "to": high, "pairs": float(here.sum()), "covered": covered, "narrow": of_narrow})
    return found


def _snapshot(setting: Setting, rng: np.random.Generator) -> Pairs:
    tasks = setting.tasks
    angle = rng.uniform(0, np.pi, tasks)
    if tasks > 2:
        angle[1] = angle[0] + np.pi / 2  # a pair that has nothing to do with each other
    true = np.zeros((tasks, DIMENSIONS))
    true[:, 0], true[:, 1] = np.cos(angle), np.sin(angle)
    spread = np.sqrt(BATCH * (1 / setting.share - 1) / DIMENSIONS)  # a batch of different texts has 1 / BATCH of it
    norms = np.exp(rng.uniform(0, np.log(20), tasks)) if setting.unequal else np.ones(tasks)
    chosen = _drawn(setting, rng)
    means = np.empty((len(chosen), tasks, DIMENSIONS))
    used = np.unique(chosen)
    length = np.exp(0.5 * rng.standard_normal((len(used), 1), dtype=np.float32) - 0.25)
    common = _tails(len(used) if setting.shared else 0, rng)
    for task in range(tasks):
        own, places = np.unique(chosen[:, task], return_inverse=True)
        noise, at = _tails(len(own), rng), np.searchsorted(used, own)
        if setting.shared:
            noise = (noise + common[at]) / np.sqrt(2)
        of_batches = (noise * length[at])[places.reshape(len(chosen), -1)]  # [groups, texts, DIMENSIONS]
        means[:, task] = norms[task] * (true[task] + spread * of_batches.mean(axis=1))
    means[chosen[..., 0] < 0] = np.nan
    products = of_means(means)
    has = (~np.isnan(means[..., 0])).sum(axis=0)
    cosine = cosines(products, has)
    pairs = np.ravel_multi_index(np.transpose(list(itertools.combinations(range(tasks), 2))), (tasks, tasks))
    truth, scale = np.round(true @ true.T, 12).ravel()[pairs], np.outer(norms, norms).ravel()[pairs]
    low, high = (ends[pairs] for ends in cosine.interval())
    return Pairs(truth, low, high, cosine.p_value()[pairs], cosine.product[pairs] / scale - truth)


def _drawn(setting: Setting, rng: np.random.Generator) -> NDArray[np.int64]:
    """Texts of all batches of each group and task, [groups, tasks, texts]; -1 where a group has none."""
    groups = min(MOST_GROUPS, setting.batches)
    group_of, count = rng.integers(groups, size=setting.texts), BATCH * (setting.batches // groups)
    chosen = np.full((groups, setting.tasks, count), -1)
    for group in range(groups):
        texts = np.flatnonzero(group_of == group)
        for task in range(setting.tasks if len(texts) else 0):
            rounds = [rng.permutation(texts) for _ in range(-(-count // len(texts)))]
            chosen[group, task] = np.concatenate(rounds)[:count]
    return chosen


def _tails(texts: int, rng: np.random.Generator) -> Floats:
    """Noise of each text, [texts, DIMENSIONS], of variance 1: its whole length has the tail."""
    return np.asarray(
        rng.standard_normal((texts, DIMENSIONS), dtype=np.float32)
        * np.sqrt(1 / rng.chisquare(3, (texts, 1)).astype(np.float32))
    )


def main(
    snapshots: Annotated[int, typer.Option(min=1, help="Of each setting.")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    seed: int = 0,
) -> None:
    """Print a table: a row a setting."""
    found, pooled = [], []
    if not as_json:
        print(" ".join(f"{name:>12}" for name in (*Setting._fields, *Shares._fields)))
    for place, setting in enumerate(SETTINGS):
        rng = np.random.default_rng([seed, place])
        of_setting = simulate(setting, max(snapshots // 10, 1) if quick else snapshots, rng)
        told = shares(of_setting)
        pooled.append(together(of_setting))
        found.append(setting._asdict() | told._asdict())
        if not as_json:
            shown = [*map(str, setting), *(f"{value:.3f}" for value in told)]
            print(" ".join(f"{value:>12}" for value in shown), flush=True)
    of_truths = by_truth(together(pooled))
    if as_json:
        print(json.dumps({"settings": found, "by_truth": of_truths}))
        return
    print(" ".join(f"{name:>12}" for name in of_truths[0]))
    for row in of_truths:
        print(" ".join(f"{value:>12.3f}" for value in row.values()))


if __name__ == "__main__":
    typer.run(main)
