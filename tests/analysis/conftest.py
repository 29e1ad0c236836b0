from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

TASKS = ("movies", "tweets", "trec")
STEPS = range(0, 80, 2)  # recorded every second step


@pytest.fixture(scope="session")
def tables(records: ModuleType) -> dict[str, pd.DataFrame]:
    """Random gradients of three tasks on 2 layers x 2 modules x 2 branches; those of A are zero at step 0."""
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((len(STEPS), 2, 2, 2, len(TASKS), 2, 8))
    halves += rng.standard_normal((1, 2, 2, 2, len(TASKS), 1, 8))
    halves[0, :, :, 0] = 0
    tables: dict[str, pd.DataFrame] = records.gradient_tables(halves, TASKS, steps=STEPS)
    steps = range(STEPS.stop)
    tables["steps"] = pd.DataFrame(
        [
            {
                "step": step,
                "task": task,
                "loss": rng.uniform(),
                "learning_rate": 1e-3 * (1 - step / 80),
                "seconds": 0.1,
                "order": order,
            }
            for step in steps
            for order, task in enumerate(TASKS)
        ]
    )
    tables["metrics"] = pd.DataFrame(
        [
            {
                "step": step,
                "split": "validation",
                "task": task,
                "metric": metric,
                "value": rng.uniform(),
                "examples": 50,
            }
            for step in (0, 40, 80)
            for task in TASKS
            for metric in ("accuracy", "loss")
        ]
    )
    return tables


@pytest.fixture(scope="session")
def run(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the `tables`."""
    runs_dir = tmp_path_factory.mktemp("runs")
    info = records.run_info("first", [records.task_info(name) for name in TASKS])
    path: Path = records.write_run(runs_dir / "first", info, records.status(), tables)
    return path
