"""What the record of a large run costs to write, takes on disk, and answers how fast.

Telemetry as of a 32-layer decoder whose 7 linear layers are adapted, trained on 10 tasks: 20,160 pairs a step, from
random gradients that share directions and drift, projected by the real rule and written by the real recorder. Compared
with the same rows in Parquet as pyarrow writes it by default, and with the same questions put to all rows.

python benchmarks/telemetry.py [--steps 1000] [--layers 32] [--tasks 10] [--runs 1000] [--keep DIRECTORY] [--json]
python benchmarks/telemetry.py --ask DIRECTORY   # only the questions, on a run that was kept
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, time
from timeit import repeat, timeit
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from analysis.conflict import agreement, queries
from analysis.library.runs import list_runs, runs_table
from analysis.reading.database import Selection
from ortho_lora.record.manifest import read_manifest
from ortho_lora.record.schema import ModuleInfo, RunInfo, Status, TaskInfo
from ortho_lora.record.tables import ROLLUPS, SCHEMAS

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
REACH = (
    "reach: 7.5 bytes a pair row in `pairs`, 10 in all; 5 million pair rows a second; a question 150 ms at 20 million "
    "rows, 500 ms at 200 million; 2 GiB; a list of 1,000 runs 500 ms"
)


def write(run_dir: Path, steps: int, layers: int, tasks: int) -> dict[str, float]:
    """Write a run; return seconds and bytes."""
    import torch

    from ortho_lora.record.rows import Layout, encode
    from ortho_lora.record.store import Batch, Store
    from ortho_lora.surgery.measure import Measured, record_gradients
    from ortho_lora.surgery.projection import project

    collected: list[Any] = []
    recorder: Any = SimpleNamespace(add_gradients=collected.append)  # so that only what its thread does is timed
    blocks = [(layer, module, branch) for layer in range(layers) for module in MODULES for branch in "AB"]
    names = [f"task{number}" for number in range(tasks)]
    layout = Layout.of(blocks, names)
    modules = [
        ModuleInfo(layer=i, module=name, path=f"{i}.{name}", shapes={}) for i in range(layers) for name in MODULES
    ]
    info = RunInfo(
        run_id=run_dir.name, created=time(), method="ortho-lora", rule="pcgrad", scope="block", seed=0,
        gradient_mode="fused", config={}, tasks=tuple(TaskInfo(name=name) for name in names), modules=tuple(modules),
        versions={}, command=[],
    )  # fmt: skip
    status = Status(state="finished", step=steps, total=steps, pid=1, process_start_time=0, heartbeat=time())
    for name in SCHEMAS:
        (run_dir / name).mkdir(parents=True)
    (run_dir / "run.json").write_text(info.model_dump_json())
    (run_dir / "status.json").write_text(status.model_dump_json())
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(len(blocks), tasks, 1, 24, generator=generator)
    store = Store(run_dir)
    spent, plain, plain_bytes, done = 0.0, 0.0, 0, 0
    for step in range(steps):
        signal += 0.05 * torch.randn(signal.shape, generator=generator)
        halves = 0.3 * signal + torch.randn(len(blocks), tasks, 2, 24, generator=generator)
        whole = halves.mean(2)
        gram = (whole @ whole.mT).double()
        projection = project(gram, "pcgrad", [torch.randperm(tasks, generator=generator).tolist()])
        measured = Measured(
            losses=torch.zeros(tasks), gram=gram, half_products=(halves[:, :, 0] * halves[:, :, 1]).sum(-1).double(),
            coefficients=projection.coefficients, projected=projection.projected,
            present=torch.ones(len(blocks), tasks, dtype=torch.bool), order=None,
        )  # fmt: skip
        record_gradients(recorder, step, layout, measured)
        done += 1
        if done * len(layout.pairs["layer"]) >= 1_000_000 or step == steps - 1:
            batch = Batch(gradients=collected)
            begin = perf_counter()
            store.write(batch)
            spent += perf_counter() - begin
            if step < 500:
                begin = perf_counter()
                for name in ("pairs", "norms"):
                    path = run_dir / "plain.parquet"
                    pq.write_table(encode(name, batch.gradients), path)
                    plain_bytes += path.stat().st_size
                plain += perf_counter() - begin
                path.unlink()
                compared, own = step + 1, spent
            collected.clear()
            done = 0
    begin = perf_counter()
    store.finish()
    spent += perf_counter() - begin
    rows = len(layout.pairs["layer"])
    sizes = {name: sum(path.stat().st_size for path in (run_dir / name).glob("part-*")) for name in SCHEMAS}
    return {
        "pair_rows": steps * rows,
        "rows_per_second": steps * rows / spent,
        "bytes_in_pairs": sizes["pairs"] / (steps * rows),
        "bytes_in_norms": sizes["norms"] / (steps * rows),
        "bytes_in_roll_ups": sum(sizes[name] for name in ROLLUPS) / (steps * rows),
        "bytes_in_all": sum(sizes.values()) / (steps * rows),
        "plain_bytes_in_all": plain_bytes / (compared * rows),
        "plain_seconds_of_ours": plain / own,
        "parts": sum(len(read_manifest(run_dir).of(name)) for name in SCHEMAS),
    }


def questions(steps: int) -> dict[str, Callable[[Path], object]]:
    """Those that the dashboard puts."""
    pair = ("task2", "task7")
    middle = Selection(steps=(steps // 5 + 3, steps - steps // 7))
    return {
        "extent": queries.extent,
        "task matrix": lambda run: agreement.task_matrix(run, Selection()),
        "task matrix, a range of steps": lambda run: agreement.task_matrix(run, middle),
        "task matrix, four layers": lambda run: agreement.task_matrix(run, Selection(layers=(3, 4, 5, 6))),
        "task matrix, a module": lambda run: agreement.task_matrix(run, Selection(modules=("q_proj",))),
        "noise": lambda run: agreement.noise(run, Selection()),
        "layer by step, a pair": lambda run: queries.layer_step(run, pair, Selection()),
        "layer by step, a pair, a range of steps": lambda run: queries.layer_step(run, pair, middle),
        "a pair over steps": lambda run: queries.pair_over_steps(run, pair, Selection()),
        "projection over steps": lambda run: queries.projection_over_steps(run, Selection()),
        "projection by layer": lambda run: queries.projection_by_layer(run, Selection()),
        "projection by pair": lambda run: queries.projection_by_pair(run, Selection()),
        "effective weights": lambda run: queries.weights(run, Selection()),
        "blocks of all pairs": lambda run: agreement.block_cosines(run, Selection()),
    }


def ask(run: Path, repeats: int = 3) -> dict[str, object]:
    """Median milliseconds of each question, and of the same without roll-ups; peak memory of asking with them."""
    last = queries.extent(run).last
    assert last is not None
    answers = questions(last + 1)
    found = {name: median(_afresh(question, run) for _ in range(repeats)) for name, question in answers.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with TemporaryDirectory() as directory:  # the same record, without its roll-ups
        bare = Path(directory) / run.name
        shutil.copytree(run, bare, ignore=shutil.ignore_patterns("*.parquet"))
        manifest = read_manifest(run)
        for name in ("pairs", "norms"):
            for part in manifest.of(name):
                (bare / name / part.name).symlink_to((run / name / part.name).resolve())
        parts = {name: manifest.of(name) for name in ("pairs", "norms")}
        (bare / "manifest.json").write_text(manifest.model_copy(update={"parts": parts}).model_dump_json())
        slow = {name: _afresh(answers[name], bare) for name in ("layer by step, a pair", "projection by pair")}
    return {
        "milliseconds": {name: 1000 * value for name, value in found.items()},
        "from_rows_of_ours": {name: value / found[name] for name, value in slow.items()},
        "peak_mebibytes": memory / 2**20,
    }


def _afresh(question: Callable[[Path], object], run: Path) -> float:
    os.utime(run / "manifest.json")  # so that nothing is remembered
    return timeit(lambda: question(run), number=1)


def listing(run: Path, count: int) -> float:
    """Milliseconds to list `count` runs with their state and final metrics."""
    with TemporaryDirectory() as directory:
        for number in range(count):
            copy = Path(directory) / f"run{number:05d}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.parquet"))
        return 1000 * median(repeat(lambda: runs_table(list_runs(Path(directory))), number=1, repeat=3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1000, help="runs to list")
    parser.add_argument("--keep", type=Path, help="write the run there, and leave it")
    parser.add_argument("--ask", type=Path, help="ask a run that was kept")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.ask:
        print(json.dumps(ask(given.ask)))
        return
    with TemporaryDirectory() as directory:
        run = given.keep or Path(directory) / "telemetry"
        written = write(run, given.steps, given.layers, given.tasks)
        # In a process of its own, which has not imported torch: its memory is that of a dashboard.
        command = [sys.executable, __file__, "--ask", str(run)]
        asked = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        asked["milliseconds_to_list"] = listing(run, given.runs)
    if given.json:
        print(json.dumps({"reach": REACH, **written, **asked}, indent=1))
        return
    print(pd.json_normalize(written | asked, sep=": ").T.to_string(header=False, float_format="{:,.2f}".format))
    print(REACH)


if __name__ == "__main__":
    main()
