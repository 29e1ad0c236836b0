"""How often the judge of pairs is right, on gradients whose cosines are known.

`python benchmarks/judge.py` takes about two minutes and prints a table in Markdown; `--quick` takes some seconds.

A simulated run is what a record keeps of it: in each step cosines of the tasks' batches and of their halves, on two
branches. Half of the runs have tasks that have nothing to do with each other; in the other half one pair has a cosine
of -0.5. A batch's gradient is the task's own plus noise of `DIMENSIONS` coordinates, correlated from step to step, and
its length varies by a factor of e^0.5 from batch to batch. With drift the first pair's cosine rises by 0.8 in the
course of the steps (the truth is its mean), and gradients shrink to a third.

- covered: intervals that hold the true cosine, of all pairs.
- any wrong: runs of unrelated tasks in which any pair is called conflict or aligned.
- of the pair at -0.5: conflict, not enough data, and the error of calling it no conflict worth the name.
- cleared: pairs at 0 called no conflict worth the name.
- width: median of the intervals of the pair at -0.5.
"""

import itertools
import json
from typing import Annotated, NamedTuple

import numpy as np
import typer
from scipy import signal

from analysis.statistics.cosines import of_steps
from analysis.statistics.series import Floats
from ortho_lora.record.judge import Estimates, judge

BRANCHES, DIMENSIONS, CONFLICT = 2, 48, -0.5
_TOGETHER = 4_000_000  # coordinates of half batches that are drawn at a time


class Setting(NamedTuple):
    """What is simulated."""

    steps: int
    tasks: int
    signal: float  # share of a batch's squared gradient that is the task's own
    correlation: float  # of a coordinate's noise from step to step
    drift: bool


class Shares(NamedTuple):
    """What comes of it, 0 to 1."""

    covered: float
    any_wrong: float
    conflict: float
    not_enough: float
    missed: float
    cleared: float
    width: float


SETTINGS = [
    *(Setting(steps, tasks, 0.2, 0.3, False) for steps in (20, 50, 100, 400) for tasks in (2, 5, 10)),
    *(Setting(steps, 5, 0.2, correlation, False) for steps in (20, 50, 100, 400) for correlation in (0.0, 0.6)),
    *(Setting(steps, 5, 0.2, 0.3, True) for steps in (20, 50, 100, 400)),
    *(Setting(steps, 5, 0.05, 0.3, False) for steps in (8, 20, 50, 100, 400)),
]


def simulate(setting: Setting, runs: int, rng: np.random.Generator) -> Shares:
    """Judge so many runs, half of them with a conflict."""
    pairs = list(itertools.combinations(range(setting.tasks), 2))
    truth = np.zeros((runs, BRANCHES, len(pairs)))
    truth[runs // 2 :, :, 0] = CONFLICT
    low, high, p = (np.empty(truth.shape) for _ in range(3))
    at_once = max(_TOGETHER // (setting.steps * setting.tasks * 2 * DIMENSIONS * BRANCHES), 1)
    for first in range(0, runs, at_once):
        chosen = slice(first, min(first + at_once, runs))
        there = truth[chosen].reshape(-1, len(pairs))
        series = [values.reshape(-1, setting.steps) for values in _record(setting, there[:, 0], pairs, rng)]
        found = Estimates.of(of_steps(*series, shares_texts=np.zeros(len(series[0]), dtype=bool)))
        for into, values in zip((low, high, p), found, strict=True):
            into[chosen] = values.reshape(truth[chosen].shape)
    verdict = np.stack([judge(Estimates(*(of[run].ravel() for of in (low, high, p)))).verdict for run in range(runs)])
    verdict = verdict.reshape(truth.shape)
    told = (verdict == "conflict") | (verdict == "aligned")
    at_conflict, free = verdict[runs // 2 :, :, 0], "no conflict worth the name"
    return Shares(
        float(((low <= truth) & (truth <= high)).mean()),
        float(told[: runs // 2].any(axis=(1, 2)).mean()),
        float((at_conflict == "conflict").mean()),
        float((at_conflict == "not enough data").mean()),
        float((at_conflict == free).mean()),
        float((verdict[truth == 0] == free).mean()),
        float(np.median((high - low)[runs // 2 :, :, 0])),
    )


def _record(
    setting: Setting, cosine: Floats, pairs: list[tuple[int, int]], rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Cosines of each pair's batches and their halves, [runs, pairs, steps]; `cosine`: the first pair's true one."""
    runs, steps = len(cosine), setting.steps
    course = np.linspace(-1, 1, steps)
    of_pair = np.clip(cosine[:, None] + (0.4 * course if setting.drift else 0.0), -1, 1)  # [runs, steps]
    true = np.zeros((runs, setting.tasks, DIMENSIONS, steps), dtype=np.float32)
    for task in range(setting.tasks):
        true[:, task, task] = 1
    true[:, 1, 0], true[:, 1, 1] = of_pair, np.sqrt(1 - of_pair**2)
    before = 40
    noise = rng.standard_normal((runs, setting.tasks, 2, DIMENSIONS, steps + before), dtype=np.float32)
    scale = np.float32(np.sqrt(1 - setting.correlation**2))
    noise = signal.lfilter([scale], np.float32([1, -setting.correlation]), noise, axis=-1)[..., before:]
    # A half batch has twice the variance of a whole one.
    spread = np.float32(np.sqrt(2 * (1 / setting.signal - 1) / DIMENSIONS))
    length = np.exp(0.5 * rng.standard_normal((runs, setting.tasks, 1, 1, steps), dtype=np.float32))
    if setting.drift:
        length *= np.float32(3) ** (-(course + 1) / 2).astype(np.float32)
    halves = length * (true[:, :, None] + spread * noise)  # [runs, tasks, 2, dimensions, steps]
    whole = halves.mean(axis=2)
    gram = np.einsum("ridn,rjdn->rijn", whole, whole, optimize=True).astype(np.float64)
    square = np.einsum("riin->rin", gram)
    shared = np.einsum("ridn,ridn->rin", halves[:, :, 0], halves[:, :, 1]).astype(np.float64)
    within = shared / (2 * square - shared)
    i, j = np.transpose(pairs)
    return gram[:, i, j] / np.sqrt(square[:, i] * square[:, j]), within[:, i], within[:, j]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few runs of few settings: whether it works.")] = False,
    runs: Annotated[int, typer.Option(help="Simulated runs of each setting.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what comes of each setting, a line each, and the means over all."""
    settings = SETTINGS[:2] if quick else SETTINGS
    found = [
        simulate(setting, 20 if quick else runs, np.random.default_rng(place)) for place, setting in enumerate(settings)
    ]
    if as_json:
        typer.echo(json.dumps([one._asdict() | two._asdict() for one, two in zip(settings, found, strict=True)]))
        return
    headings = [*Setting._fields, *Shares._fields]
    typer.echo(f"| {' | '.join(name.replace('_', ' ') for name in headings)} |\n{'|--:' * len(headings)}|")
    for setting, shares in zip(settings, found, strict=True):
        cells = [*map(str, setting[:-1]), "yes" if setting.drift else "", *_shown(shares)]
        typer.echo(f"| {' | '.join(cells)} |")
    means = Shares(*np.mean(found, axis=0))
    typer.echo(f"| {' | '.join(['mean', *[''] * (len(Setting._fields) - 1), *_shown(means)])} |")


def _shown(shares: Shares) -> list[str]:
    return [*(f"{share:.1%}" for share in shares[:-1]), f"{shares.width:.2f}"]


if __name__ == "__main__":
    typer.run(main)
