"""Synthetic run directories that follow `ortho_lora.record.schema`: known gradients in, their exact record out."""

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

from ortho_lora.record.manifest import Manifest
from ortho_lora.record.parts import write_part
from ortho_lora.record.rows import decode
from ortho_lora.record.schema import ModuleInfo, RunInfo, Status, TaskInfo
from ortho_lora.record.store import Batch, Store
from ortho_lora.record.tables import SCHEMAS, TABLES

MODULES = ("query", "value")


def task_info(name: str, *, twin_of: str | None = None, metric: str = "accuracy") -> TaskInfo:
    return TaskInfo(
        name=name,
        kind="classification",
        classes=("no", "yes"),
        metrics=(metric, "loss"),
        train_examples=100,
        evaluation_examples={"validation": 50},
        majority={"validation": {metric: 0.5}},
        twin_of=twin_of,
    )


def run_info(run_id: str, tasks: Sequence[TaskInfo], *, layers: int = 2, **fields: Any) -> RunInfo:
    modules = [
        ModuleInfo(layer=layer, module=module, path=f"layer.{layer}.{module}", shapes={"A": (4, 8), "B": (8, 4)})
        for layer in range(layers)
        for module in MODULES
    ]
    known = {
        "run_id": run_id,
        "created": 1.7e9,
        "method": "ortho-lora",
        "rule": "pcgrad",
        "scope": "block",
        "seed": 7,
        "gradient_mode": "fused",
        "config": {},
        "tasks": tuple(tasks),
        "modules": tuple(modules),
        "versions": {},
        "command": [],
    }
    return RunInfo(**(known | fields))


def status(state: str = "finished", **fields: Any) -> Status:
    process = psutil.Process()
    known = {
        "state": state,
        "step": 40,
        "total": 40,
        "pid": os.getpid(),
        "process_start_time": process.create_time(),
        "heartbeat": time.time(),
    }
    return Status.model_validate(known | fields)


def write_run(
    run_dir: Path, info: RunInfo, state: Status | None, tables: dict[str, pd.DataFrame], parts: int = 3
) -> Path:
    """Write a run; each table in `parts` parts of consecutive rows."""
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(info.model_dump_json())
    if state:
        (run_dir / "status.json").write_text(state.model_dump_json())
    manifest = {}
    for table, rows in tables.items():
        (run_dir / table).mkdir()
        cuts = np.linspace(0, len(rows), parts + 1).astype(int)
        manifest[table] = []
        for number, (first, last) in enumerate(itertools.pairwise(cuts)):
            if first < last:
                part = pa.Table.from_pandas(rows.iloc[first:last], preserve_index=False).cast(TABLES[table])
                manifest[table].append(write_part(run_dir / table / f"part-{number:06d}.parquet", part))
    (run_dir / "manifest.json").write_text(Manifest(parts=manifest).model_dump_json())
    return run_dir


def write_rolled_run(run_dir: Path, info: RunInfo, state: Status, tables: dict[str, pd.DataFrame]) -> Path:
    """The same written as training does, with roll-ups; a flush every three recorded steps."""
    write_run(run_dir, info, state, {})
    for name in SCHEMAS:
        (run_dir / name).mkdir(parents=True)
    store = Store(run_dir, rows=200)
    rows = {
        name: pa.Table.from_pandas(table, preserve_index=False).cast(TABLES[name]) for name, table in tables.items()
    }
    gradients = list(decode(rows["pairs"], rows["norms"]))
    for begin in range(0, len(gradients), 3):
        store.write(Batch(gradients=gradients[begin : begin + 3]))
    store.finish()
    return run_dir


def gradient_tables(
    halves: np.ndarray, tasks: Sequence[str], *, steps: Sequence[int] | None = None
) -> dict[str, pd.DataFrame]:
    """The pairs and norms of gradients projected by PCGrad in configuration order, step by step and block by block.

    Args:
        halves: gradients of the batches' halves, [steps, layers, modules, branches, tasks, 2, width]; all-zero where
            there is no gradient.
        tasks: names.
        steps: number of each step; default 0, 1, ...
    """
    pairs, norms = [], []
    numbers = range(len(halves)) if steps is None else steps
    count = len(tasks)
    for s, layer, m, b in np.ndindex(halves.shape[:4]):
        block = {"step": numbers[s], "layer": layer, "module": MODULES[m], "branch": "AB"[b]}
        first, second = halves[s, layer, m, b].transpose(1, 0, 2)  # [tasks, width] each
        before = (first + second) / 2
        after, projected, coefficients = _pcgrad(before)
        for i in range(count):
            norms.append(
                block
                | {
                    "task": tasks[i],
                    "norm_before": np.linalg.norm(before[i]),
                    "norm_after": np.linalg.norm(after[i]),
                    "half_product": first[i] @ second[i],
                    "weight": coefficients[:, i].sum(),
                }
            )
            pairs.extend(
                block
                | {
                    "task_i": tasks[i],
                    "task_j": tasks[j],
                    "cos_before": _cosine(before[i], before[j]),
                    "cos_after": _cosine(after[i], after[j]),
                    "projected_ij": projected[i, j],
                    "projected_ji": projected[j, i],
                }
                for j in range(i + 1, count)
            )
    return {
        "pairs": pd.DataFrame(pairs, columns=TABLES["pairs"].names),
        "norms": pd.DataFrame(norms, columns=TABLES["norms"].names),
    }


def noisy_halves(
    true: np.ndarray, shape: tuple[int, int, int, int], noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Gradients of half batches, [*shape, tasks, 2, width]: `true` [tasks, width] plus noise for each half."""
    size = (*shape, len(true), 2, true.shape[1])
    return true[:, None, :] + noise * rng.standard_normal(size)


def _pcgrad(gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = len(gradients)
    after, projected, coefficients = gradients.copy(), np.zeros((count, count), dtype=bool), np.eye(count)
    for i in range(count):
        for j in range(count):
            square = gradients[j] @ gradients[j]
            if i != j and square > 0 and (product := after[i] @ gradients[j]) < 0:
                after[i] -= product / square * gradients[j]
                coefficients[i, j] -= product / square
                projected[i, j] = True
    return after, projected, coefficients


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return one @ other / scale if scale else np.nan


HOSTILE = (
    '</script><script>document.title = "taken"</script>',
    '<img src="x" onerror="document.title=\'taken\'">',
    '"\'><a href="https://example.org/">%{y} &lt;b&gt;</a>',
    "<b>ünïcode</b> 任务 ✓",
)
"""Names that a careless page would obey."""


def write_hostile(run_dir: Path) -> Path:
    """A run whose every name is hostile: two of its tasks pull against each other, and one of its files is torn."""
    rng = np.random.default_rng(1)
    true = rng.standard_normal((len(HOSTILE), 8))
    true[1] = -true[0] + 0.3 * true[1]
    tables = gradient_tables(noisy_halves(true, (24, 2, 2, 2), 0.5, rng), HOSTILE)
    for table in ("pairs", "norms"):
        tables[table]["module"] = tables[table]["module"].map({"query": HOSTILE[0], "value": HOSTILE[1]})
    rows = [{"step": step, "task": task} for step in range(24) for task in HOSTILE]
    place = [HOSTILE.index(row["task"]) for row in rows]
    tables["steps"] = pd.DataFrame(rows).assign(loss=1.0, learning_rate=1e-3, seconds=0.1, order=place)
    tables["metrics"] = pd.DataFrame(
        [
            {"step": 24, "split": HOSTILE[1], "task": task, "metric": HOSTILE[0], "value": 0.5, "examples": 9}
            for task in HOSTILE
        ]
    )
    tasks = [task_info(name, metric=HOSTILE[0]) for name in HOSTILE]
    texts = {"method": HOSTILE[0], "scope": HOSTILE[1], "config": {HOSTILE[0]: {"note": HOSTILE[1]}, "list": [HOSTILE]}}
    texts |= {"versions": {HOSTILE[0]: HOSTILE[1]}, "command": ["train", *HOSTILE]}
    state = status("failed", message=HOSTILE[0])
    write_run(run_dir, run_info(HOSTILE[0], tasks, **texts), state, tables)
    (run_dir / "pairs" / "<img src=x>.parquet").write_text("")
    return run_dir
