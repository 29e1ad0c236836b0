"""Synthetic studies that follow `ortho_lora.record.study`: known accuracies in, study and runs on disk out."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from ortho_lora.record.study import Cell, Choice, Study, Use, write_study

TASKS = ("movies", "tweets", "trec")
ACCURACY = {"single": 0.80, "joint": 0.74, "ortho-lora": 0.77}
EXAMPLES = 400
STEPS = 12
SECONDS = {"single": 0.2, "joint": 0.1, "ortho-lora": 0.11}


class Maker:
    """Writes the runs of a study, and at the end the study."""

    def __init__(self, records: ModuleType, directory: Path) -> None:
        self.records, self.directory = records, directory
        self.uses: list[Use] = []
        self.choices: list[Choice] = []

    def add(
        self,
        method: str,
        seed: int,
        accuracy: Mapping[str, float],
        *,
        condition: Mapping[str, str] | None = None,
        pair: tuple[str, str] | None = None,
        candidate: Mapping[str, Any] | None = None,
        state: str = "finished",
        cosine: float = 0.0,
        predictions: bool = True,
        metric: str = "accuracy",
        twins: Mapping[str, str] | None = None,
    ) -> str:
        """A run with these accuracies by task; of two methods with the same seed the same examples are hard."""
        parts = [method, *(condition or {}).values(), *(pair or ()), *map(str, (candidate or {}).values()), f"s{seed}"]
        name = "-".join(parts)
        tasks = list(accuracy)
        tables = _tables(self.records, name, method, seed, accuracy, cosine)
        tables["metrics"]["metric"] = metric
        left_out = {"pairs"} if method == "single" else set()
        left_out |= set() if predictions and state == "finished" else {"predictions"}
        left_out |= set() if state == "finished" else {"metrics"}
        infos = [self.records.task_info(task, metric=metric, twin_of=(twins or {}).get(task)) for task in tasks]
        if state != "waiting":
            self.records.write_run(
                self.directory / name,
                self.records.run_info(name, infos, method=method, seed=seed),
                self.records.status(state, step=STEPS, total=STEPS),
                {table: rows for table, rows in tables.items() if table not in left_out},
                parts=1,
            )
        cell = Cell(method=method, condition=dict(condition or {}), pair=pair)
        self.uses.append(Use(run_id=name, cell=cell, candidate=dict(candidate or {}), seed=seed))
        return name

    def choose(self, method: str, candidate: Mapping[str, Any], scores: Sequence[float | None], **cell: Any) -> None:
        self.choices.append(Choice(cell=Cell(method=method, **cell), candidate=dict(candidate), scores=tuple(scores)))

    def write(self, seeds: Sequence[int] = (0, 1, 2), **fields: Any) -> Path:
        methods = tuple(dict.fromkeys(use.cell.method for use in self.uses))
        known = {
            "name": "made",
            "title": "Does projection help?",
            "created": 1.7e9,
            "command": ["study", "made.yaml"],
            "file": {},
            "methods": methods,
            "baseline": "joint",
            "seeds": tuple(seeds),
            "tuning_seeds": (0,),
            "candidates": dict.fromkeys(methods, 1),
            "uses": tuple(self.uses),
            "choices": tuple(self.choices),
            "phase": "done",
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        write_study(self.directory, Study(**(known | fields)))
        return self.directory


def three_methods(maker: Maker, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Maker:
    """Single-task training best, joint training worst, on every task; a little noise by seed."""
    for method, level in ACCURACY.items():
        for seed in seeds:
            rng = np.random.default_rng([zlib.crc32(method.encode()), seed])
            maker.add(method, seed, {task: level + 0.005 * rng.standard_normal() for task in TASKS}, **options)
    return maker


DIAL = ("0.0", "0.5", "1.0")


def dialled(maker: Maker, seeds: Sequence[int] = (0, 1, 2), **condition: str) -> Maker:
    """A task and its twin: the more labels are flipped, the more joint training loses."""
    for rho in DIAL:
        turn, twin = float(rho), f"movies-flip{rho}"
        for method, cost in (("single", 0.0), ("joint", 0.2), ("ortho-lora", 0.15)):
            for seed in seeds:
                level = 0.8 - cost * turn
                options = {
                    "condition": {"rho": rho, **condition},
                    "cosine": 0.9 * (1 - 2 * turn),
                    "twins": {twin: "movies"},
                }
                maker.add(method, seed, {"movies": level, twin: level}, **options)
    return maker


RATES = (0.0002, 0.0005, 0.001)


def tuned(maker: Maker, seeds: Sequence[int] = (0, 1, 2)) -> Maker:
    """Two methods with three learning rates each, the best of joint at the edge, and a rank that had none to choose."""
    for method, level in (("single", 0.8), ("joint", 0.74), ("ortho-lora", 0.745), ("joint-rank32", 0.77)):
        rates = RATES if method in ("joint", "ortho-lora") else (None,)
        best = {"joint": RATES[2], "ortho-lora": RATES[1]}.get(method)
        for rate in rates:
            candidate = {} if rate is None else {"learning_rate": rate}
            for seed in seeds if rate == best else seeds[:1]:
                rng = np.random.default_rng([zlib.crc32(method.encode()), seed])
                lower = 0.0 if rate == best else 0.03
                accuracy = {task: level - lower + 0.004 * rng.standard_normal() for task in TASKS}
                maker.add(method, seed, accuracy, candidate=candidate)
        if best is not None:
            scores = [level if rate == best else level - 0.03 for rate in rates]
            maker.choose(method, {"learning_rate": best}, scores)
    return maker


def with_pairs(maker: Maker, seeds: Sequence[int] = (0, 1, 2)) -> Maker:
    """Each pair jointly; those that conflict more lose more. Four tasks make six pairs."""
    tasks = (*TASKS, "spam")
    pairs = [(one, other) for place, one in enumerate(tasks) for other in tasks[place + 1 :]]
    for seed in seeds:
        maker.add("single", seed, dict.fromkeys(tasks, 0.80))
        maker.add("joint", seed, dict.fromkeys(tasks, 0.76))
        for place, pair in enumerate(pairs):
            cosine = 0.4 - 0.15 * place
            maker.add("joint", seed, dict.fromkeys(pair, 0.8 + 0.2 * cosine), pair=pair, cosine=cosine)
    return maker


def _tables(
    records: ModuleType, name: str, method: str, seed: int, accuracy: Mapping[str, float], cosine: float
) -> dict[str, pd.DataFrame]:
    tasks = list(accuracy)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    directions = np.eye(len(tasks), 8)
    if len(tasks) > 1:
        directions[1, :2] = cosine, np.sqrt(1 - cosine**2)
    halves = records.noisy_halves(directions, (STEPS, 1, 1, 2), 0.05, rng)
    tables: dict[str, pd.DataFrame] = records.gradient_tables(halves, tasks)
    tables["steps"] = pd.DataFrame(
        [
            [step, task, 1.0, 1e-3, SECONDS.get(method, 0.1), place]
            for step in range(STEPS)
            for place, task in enumerate(tasks)
        ],
        columns=["step", "task", "loss", "learning_rate", "seconds", "order"],
    )
    metrics, predictions = [], []
    for task, level in accuracy.items():
        shared = np.random.default_rng([zlib.crc32(task.encode())]).standard_normal(EXAMPLES)  # how hard each one is
        own = 0.8 * shared + 0.6 * rng.standard_normal(EXAMPLES)
        right = own.argsort().argsort() < round(level * EXAMPLES)
        targets = np.arange(EXAMPLES) % 2
        said = np.where(right, targets, 1 - targets)
        for step, value in ((0, 0.5), *((step, 0.6) for step in range(2, STEPS, 2)), (STEPS, right.mean())):
            metrics.append([step, "validation", task, "accuracy", float(value), EXAMPLES])
        predictions.append(
            pd.DataFrame(
                {
                    "step": STEPS, "split": "validation", "task": task, "example": np.arange(EXAMPLES),
                    "target": targets, "prediction": said,
                }
            )
        )  # fmt: skip
    tables["metrics"] = pd.DataFrame(metrics, columns=["step", "split", "task", "metric", "value", "examples"])
    tables["predictions"] = pd.concat(predictions, ignore_index=True)
    return tables
