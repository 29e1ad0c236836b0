"""Synthetic run directories that follow `ortho_lora.schema`: known gradients in, their exact record out."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lora.schema import TABLES, ModuleInfo, RunInfo, Status, TaskInfo

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
        manifest[table] = [f"part-{part:06d}.parquet" for part in range(parts)]
        for name, first, last in zip(manifest[table], cuts, cuts[1:], strict=False):
            columns = [
                pa.array(rows[field.name].iloc[first:last], from_pandas=True).cast(field.type)
                for field in TABLES[table]
            ]
            pq.write_table(pa.Table.from_arrays(columns, schema=TABLES[table]), run_dir / table / name)
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
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
