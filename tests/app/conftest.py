import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from snapshots import snapshot_tables
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _installed_once() -> Iterator[None]:
    """Every `AppTest` reads what is installed, for components of Streamlit, which costs more than most pages."""
    with pytest.MonkeyPatch.context() as patched:
        scan = cache(manifest_scanner.scan_component_manifests)
        patched.setattr(manifest_scanner, "scan_component_manifests", scan)
        yield


@pytest.fixture(autouse=True)
def _answers_are_kept_by_what_was_asked(caplog) -> Iterator[None]:
    """Nothing that pages ask with, or draw of, must be pickled for Streamlit to know it again."""
    yield
    assert not [told for told in caplog.get_records("call") if "falling back to pickling" in told.getMessage()]


@pytest.fixture
def runs_dir(tmp_path, monkeypatch):
    """An empty runs directory, the one that the app shows, alone."""
    monkeypatch.setenv("ORTHO_LORA_SAMPLES", "off")
    monkeypatch.setenv("ORTHO_LORA_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def gradients(records):
    """Tables of random gradients of three tasks over twelve steps, which nobody changes."""
    halves = np.random.default_rng(0).standard_normal((12, 2, 2, 2, 3, 2, 8))
    return records.gradient_tables(halves, ("movies", "tweets", "trec"))


@pytest.fixture
def add_run(records, gradients, runs_dir):
    """Writes a synthetic run of three tasks: add_run(name, state=..., snapshots=steps, **fields of run.json)."""

    def add(name, state="finished", process=None, snapshots=(), **fields):
        tasks = ("movies", "tweets", "trec")
        tables = dict(gradients)
        if fields.get("method") == "single":
            del tables["pairs"]
        tables["metrics"] = pd.DataFrame(
            [
                {"step": step, "split": "validation", "task": task, "metric": metric, "value": 0.5, "examples": 50}
                for step in (0, 12)
                for task in tasks
                for metric in ("accuracy", "loss")
            ]
        )
        tables["steps"] = pd.DataFrame(
            [
                {"step": step, "task": task, "loss": 1.0, "learning_rate": 1e-3, "seconds": 0.1, "order": order}
                for step in range(12)
                for order, task in enumerate(tasks)
            ]
        )
        if snapshots:  # the first two conflict at step 0 and agree later
            tables |= snapshot_tables(snapshots, tasks, (0, 1))
        info = records.run_info(name, [records.task_info(task) for task in tasks], **{"created": time.time(), **fields})
        return records.write_run(runs_dir / name, info, records.status(state, **(process or {})), tables)

    return add


@pytest.fixture
def open_page():
    """Runs one page as the router does, with the address given; AppTest cannot follow pages that are functions."""

    def run(page, **query):
        script = (
            f"from app.shared import address, state\nfrom app.views import {page}\n"
            f"state.choose_runs()\naddress.arrive({page!r})\n{page}.page()\n"
        )
        test = AppTest.from_string(script, default_timeout=PATIENCE)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    return run


@pytest.fixture
def unfold():
    """Opens what stands below a figure: unfold(test, name of the figure)."""

    def opened(test, name):
        test.session_state[f"below-{name}"] = True
        return test.run()

    return opened
