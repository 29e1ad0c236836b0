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
- bias: mean error of U_ij over all pairs, in standard errors of U_ij (of one snapshot, not of the mean).
- wrong: pairs at a cosine of 0 or more told as conflicts, or at 0 or less as aligned, by the judge, of those told.
"""

import itertools
import json
from typing import Annotated, NamedTuple

import numpy as np
import typer

from ortho_lora.record.jackknife import Floats
from ortho_lora.record.judge import Estimates, judge
from ortho_lora.record.products import cosines, of_means

BATCH, DIMENSIONS, MOST_GROUPS = 16, 128, 32


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


SETTINGS = [
    *(Setting(n, share) for share in (0.01, 0.05, 0.2) for n in (16, 64, 256)),
    *(Setting(n, 0.05, tasks) for tasks in (2, 10) for n in (16, 64, 256)),
    *(Setting(n, 0.05, texts=texts) for texts in (250, 1000) for n in (64, 256)),
    *(Setting(n, share, texts=texts, shared=True) for share in (0.05, 0.2) for texts in (250, 5000) for n in (64, 256)),
]


def simulate(setting: Setting, snapshots: int, rng: np.random.Generator) -> Shares:
    """Take so many snapshots, each of tasks of its own."""
    found = [_snapshot(setting, rng) for _ in range(snapshots)]
    truth, low, high, _, error = (np.concatenate(of) for of in zip(*found, strict=True))
    inside, narrow = (low <= truth) & (truth <= high), high - low < 0.5
    verdicts = [judge(Estimates(*of[1:4])).verdict for of in found]
    verdict = np.concatenate(verdicts)
    told = (verdict == "conflict") | (verdict == "aligned")
    wrong = ((verdict == "conflict") & (truth >= 0)) | ((verdict == "aligned") & (truth <= 0))
    return Shares(
        float(inside.mean()),
        float(inside[narrow].mean()) if narrow.any() else np.nan,
        float(narrow.mean()),
        float(np.median(high - low)),
        float(error.mean()),
        float(wrong.sum() / max(told.sum(), 1)),
        float(told.mean()),
    )


def _snapshot(setting: Setting, rng: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Of each pair: the true cosine, the interval's ends, p, and the error of U_ij in standard errors."""
    tasks, size = setting.tasks, setting.texts
    angle = rng.uniform(0, np.pi, tasks)
    if tasks > 2:
        angle[1] = angle[0] + np.pi / 2  # a pair that has nothing to do with each other
    true = np.zeros((tasks, DIMENSIONS))
    true[:, 0], true[:, 1] = np.cos(angle), np.sin(angle)
    noise = _noise(size, 1 if setting.shared else tasks, rng)
    if setting.shared:
        noise = (noise + _noise(size, tasks, rng)) / np.sqrt(2)
    spread = np.sqrt(BATCH * (1 / setting.share - 1) / DIMENSIONS)  # a batch of different texts has 1 / BATCH of it
    norms = np.exp(rng.uniform(0, np.log(20), tasks)) if setting.unequal else np.ones(tasks)
    groups = min(MOST_GROUPS, setting.batches)
    group_of = rng.integers(groups, size=size)
    means = np.full((groups, tasks, DIMENSIONS), np.nan)
    for group in range(groups):
        texts = np.flatnonzero(group_of == group)
        if not len(texts):
            continue
        drawn = BATCH * (setting.batches // groups)
        for task in range(tasks):
            rounds = [rng.permutation(texts) for _ in range(-(-drawn // len(texts)))]
            chosen = np.concatenate(rounds)[:drawn]
            means[group, task] = norms[task] * (true[task] + spread * noise[chosen, task].mean(axis=0))
    products = of_means(means)
    has = (~np.isnan(means[..., 0])).sum(axis=0)
    cosine = cosines(products, has)
    pairs = np.ravel_multi_index(np.transpose(list(itertools.combinations(range(tasks), 2))), (tasks, tasks))
    truth, scale = (true @ true.T).ravel()[pairs], np.outer(norms, norms).ravel()[pairs]
    low, high = (ends[pairs] for ends in cosine.interval())
    error = (cosine.product[pairs] - truth * scale) / np.sqrt(cosine.product_variance[pairs])
    return truth, low, high, cosine.p_value()[pairs], error


def _noise(size: int, tasks: int, rng: np.random.Generator) -> Floats:
    """Of each text and task, [size, tasks, DIMENSIONS], of variance 1."""
    tails = rng.standard_normal((size, tasks, DIMENSIONS), dtype=np.float32)
    tails *= np.sqrt(1 / rng.chisquare(3, (size, tasks, 1)).astype(np.float32))  # the whole text's length has the tail
    length = np.exp(0.5 * rng.standard_normal((size, 1, 1), dtype=np.float32) - 0.25)
    return np.asarray(tails * length)


def main(
    snapshots: Annotated[int, typer.Option(min=1, help="Of each setting.")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    seed: int = 0,
) -> None:
    """Print a table: a row a setting."""
    rng = np.random.default_rng(seed)
    found = []
    if not as_json:
        print(" ".join(f"{name:>8}" for name in (*Setting._fields, *Shares._fields)))
    for setting in SETTINGS:
        shares = simulate(setting, max(snapshots // 10, 1) if quick else snapshots, rng)
        found.append(setting._asdict() | shares._asdict())
        if not as_json:
            shown = [*map(str, setting), *(f"{value:.3f}" for value in shares)]
            print(" ".join(f"{value:>8}" for value in shown), flush=True)
    if as_json:
        print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
