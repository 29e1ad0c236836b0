"""How often a study's correlation over pairs of tasks is called more than noise, where it is none and where it is one.

    python benchmarks/correlations.py

Conflict and harm of a pair are made of a part of each of its two tasks and of one of its own; harm also of the conflict
times a strength. A bootstrap over pairs, which takes pairs that share a task for independent, stands beside.
"""

import argparse
import json

import numpy as np

from analysis.study.transfer import LEVEL, correlate

RESAMPLES = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated of each kind")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [
        {"tasks": tasks, "of tasks": shared, "strength": strength}
        | _rates(arguments.studies, tasks, shared, strength, rng)
        for strength in (0.0, 1.0)
        for tasks in arguments.tasks
        for shared in (0.0, 1.0, 3.0)
    ]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"Called more than noise at a level of {LEVEL:.0%}, of {arguments.studies} studies (Spearman):\n")
    print(f"{'strength':>8} {'tasks':>6} {'of tasks':>9} {'exchange of tasks':>18} {'bootstrap over pairs':>21}")
    for row in rows:
        print(
            f"{row['strength']:8.1f} {row['tasks']:6} {row['of tasks']:9.1f} {row['exchange']:18.1%}"
            f" {row['bootstrap']:21.1%}"
        )


def _rates(studies: int, tasks: int, shared: float, strength: float, rng: np.random.Generator) -> dict[str, float]:
    places = np.argwhere(np.triu(np.ones((tasks, tasks)), 1))
    called = {"exchange": 0, "bootstrap": 0}
    for _ in range(studies):
        of_task = shared * rng.standard_normal((2, tasks))
        own = rng.standard_normal((2, len(places)))
        conflict, harm = of_task[:, places].sum(axis=2) + own
        harm = harm + strength * conflict
        called["exchange"] += correlate("Spearman", places, conflict, harm[:, None])[1] < LEVEL
        called["bootstrap"] += _excludes_zero(conflict, harm, rng)
    return {name: count / studies for name, count in called.items()}


def _excludes_zero(conflict: np.ndarray, harm: np.ndarray, rng: np.random.Generator) -> bool:
    drawn = rng.integers(len(conflict), size=(RESAMPLES, len(conflict)))
    one, other = (values.argsort().argsort()[drawn].astype(float) for values in (conflict, harm))
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    low, high = np.nanquantile((one * other).sum(axis=1), [0.025, 0.975])
    return bool(low > 0 or high < 0)


if __name__ == "__main__":
    main()
