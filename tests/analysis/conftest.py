import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("analysis_records", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_records = _load(Path(__file__).with_name("records.py"))


@pytest.fixture(scope="session")
def records() -> ModuleType:
    """The maker of synthetic runs: test modules are imported without a path to their neighbours."""
    return _records


TASKS = ("movies", "tweets", "trec")
STEPS = range(0, 80, 2)  # recorded every second step


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    """Random gradients of three tasks on 2 layers x 2 modules x 2 branches; those of A are zero at step 0."""
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((len(STEPS), 2, 2, 2, len(TASKS), 2, 8))
    halves += rng.standard_normal((1, 2, 2, 2, len(TASKS), 1, 8))
    halves[0, :, :, 0] = 0
    tables: dict[str, pd.DataFrame] = _records.gradient_tables(halves, TASKS, steps=STEPS)
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
def run(tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the `tables`."""
    runs_dir = tmp_path_factory.mktemp("runs")
    info = _records.run_info("first", [_records.task_info(name) for name in TASKS])
    path: Path = _records.write_run(runs_dir / "first", info, _records.status(), tables)
    return path
