"""How long a record with snapshots takes to say which pairs conflict, for any choice of blocks, and what it weighs.

Snapshots as of a 32-layer decoder whose 7 linear layers are adapted, on 10 tasks with held-out texts of each, in 10
groups of texts, written by the real recorder. A question is put anew with another choice of blocks each time, so that
no answer is remembered; parts are in the system's memory.

python benchmarks/questions.py [--snapshots 4] [--layers 32] [--groups 10] [--repeats 5] [--keep DIRECTORY] [--json]
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, time
from typing import Any

import numpy as np
import pandas as pd

from analysis.conflict.snapshots import snapshot_pairs
from analysis.reading.database import Selection
from ortho_lora.record.manifest import part_files
from ortho_lora.record.products import of_means
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ModuleInfo, RunInfo, TaskInfo
from ortho_lora.record.snapshots import METRICS, Snapshot
from ortho_lora.record.tables import ROLLUPS, TABLES

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TASKS = tuple(f"task{number}" for number in range(10))
REACH = "reach: 150 ms for any choice of layers"


def snapshot(layers: int, groups: int, rng: np.random.Generator) -> Snapshot:
    """Of random gradients that share directions."""
    blocks = tuple(itertools.product(range(layers), MODULES, "AB"))
    count, products, held_out = len(TASKS), {}, {}
    for metric in METRICS:
        of_blocks, of_targets = [], []
        for _ in blocks:
            true = rng.standard_normal((count, 16)) + rng.standard_normal(16)
            means, held = (true + rng.standard_normal((groups, count, 16)) for _ in range(2))
            of_blocks.append(of_means(means))
            of_targets.append(of_means(held, means))
        products[metric], held_out[metric] = np.stack(of_blocks, axis=1), np.stack(of_targets, axis=1)
    everywhere = np.full(count, groups)
    return Snapshot(
        tasks=TASKS, targets=TASKS, blocks=blocks, products=products, held_out=held_out, groups=everywhere,
        target_groups=everywhere, batches=4 * everywhere, target_batches=everywhere, losses=np.ones(count),
        target_losses=np.ones(count), exact=True, of_optimizer=True,
    )  # fmt: skip


def write(run_dir: Path, snapshots: int, layers: int, groups: int) -> dict[str, float]:
    """Write a run; return its rows and bytes."""
    rng = np.random.default_rng(0)
    modules = [
        ModuleInfo(layer=layer, module=name, path=f"{layer}.{name}", shapes={})
        for layer in range(layers)
        for name in MODULES
    ]
    info = RunInfo(
        run_id=run_dir.name, created=time(), method="ortho-lora", rule="pcgrad", scope="block", seed=0,
        gradient_mode="fused", config={}, tasks=tuple(TaskInfo(name=name) for name in TASKS), modules=tuple(modules),
        versions={}, command=[],
    )  # fmt: skip
    rows = 0
    with Recorder(run_dir) as recorder:
        recorder.begin(info)
        for place in range(snapshots):
            taken = snapshot(layers, groups, rng)
            rows += taken.row_count
            recorder.add_snapshot(100 * place, taken)
    sizes = {
        name: sum(path.stat().st_size for path in part_files(run_dir, name))
        for name in (*TABLES, *ROLLUPS)
        if "snapshots" in name
    }
    return {"rows": rows, **{f"bytes_a_row_in_{name}": size / rows for name, size in sizes.items()}}


def questions(layers: int) -> dict[str, Callable[[Path, int], Any]]:
    """By name, each of a run and a number, which makes the choice another."""

    def some(number: int) -> tuple[int, ...]:
        return tuple(layer for layer in range(layers) if (layer + number) % 5 < 3) or (0,)

    def but(number: int) -> tuple[int, ...]:
        return tuple(layer for layer in range(layers) if layer != number % layers) or (0,)

    def steps(number: int) -> tuple[int, int]:
        return (-1 - number, 10**6)  # all of them, said differently

    return {
        "whole model": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n))),
        "of plain gradients": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n)), "plain"),
        "by branch": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n)), by=("branch",)),
        "by layer": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n)), by=("layer",)),
        "by layer and branch": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n)), by=("layer", "branch")),
        "by module": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n)), by=("module",)),
        "some layers": lambda run, n: snapshot_pairs(run, Selection(layers=some(n))),
        "all layers but one": lambda run, n: snapshot_pairs(run, Selection(layers=but(n))),
        "one layer": lambda run, n: snapshot_pairs(run, Selection(layers=(n % layers,))),
        "some layers, by layer": lambda run, n: snapshot_pairs(run, Selection(layers=some(n)), by=("layer",)),
        "some layers, by module": lambda run, n: snapshot_pairs(run, Selection(layers=some(n)), by=("module",)),
        "a branch": lambda run, n: snapshot_pairs(run, Selection(steps=steps(n), branches=("B",))),
        "a module": lambda run, n: snapshot_pairs(run, Selection(modules=(MODULES[n % len(MODULES)],))),
        "every block": lambda run, n: snapshot_pairs(
            run, Selection(steps=steps(n)), by=("layer", "module", "branch")
        ),
    }  # fmt: skip


def milliseconds(run: Path, layers: int, repeats: int) -> pd.DataFrame:
    """Medians of each question, after one to warm up: of time, and of the processor's over all threads."""
    numbers: Iterator[int] = itertools.count()
    found = []
    for name, question in questions(layers).items():
        times = []
        for _ in range(1 + repeats):
            begin = perf_counter(), process_time()
            question(run, next(numbers))
            times.append((1000 * (perf_counter() - begin[0]), 1000 * (process_time() - begin[1])))
        passed, worked = (median(of) for of in zip(*times[1:], strict=True))
        found.append({"question": name, "milliseconds": passed, "of_the_processor": worked})
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=4)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="write the run there, and leave it; ask it if it is there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        run = given.keep or Path(directory) / "snapshots"
        written = {} if run.exists() else write(run, given.snapshots, given.layers, given.groups)
        found = milliseconds(run, given.layers, given.repeats)
    if given.json:
        print(json.dumps({"reach": REACH, **written, "results": found.to_dict("records")}, indent=1))
        return
    print("\n".join(f"{name} {value:,.2f}" for name, value in written.items()))
    print(found.round(1).to_string(index=False))
    print(REACH)


if __name__ == "__main__":
    main()
