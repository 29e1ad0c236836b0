import gc
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# Test modules share samplers and oracles; nothing of them is installed.
TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

# Time is measured in benchmarks/, and a failure must be one that comes again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


# They begin first, so that none is what all wait for at the end; each is whole in one process, as are its fixtures.
LONGEST = (
    "test_benchmarks.py", "browser/test_accessible.py", "training/test_train.py", "test_examples.py",
    "browser/test_learn.py", "analysis/test_torture.py", "test_package.py", "surgery/test_distributed.py",
    "browser/test_restarts.py", "browser/test_whole.py", "app/test_pages.py", "app/test_one_verdict.py",
    "browser/test_dashboard.py", "training/test_snapshots.py", "test_readme.py", "training/test_lookahead.py",
    "browser/test_runs.py", "browser/test_work.py", "study/test_command.py", "trainers/test_watch_trl.py",
    "browser/test_study.py", "study/test_cluster.py", "browser/test_conflicts.py", "study/test_from_advice.py",
    "training/test_probe.py", "surgery/test_projection.py", "tasks/test_dial_trains.py",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """What is imported is never garbage: no collection need go through it, and some tests ask for many."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else DuckDB calls it a leak


@pytest.fixture(scope="session")
def records() -> ModuleType:
    """The maker of synthetic runs."""
    return importlib.import_module("records")


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """The maker of synthetic studies."""
    return importlib.import_module("study_records")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """For `model:`; random, and trained in a tenth of the packaged one's time."""
    path = tmp_path_factory.mktemp("tiny") / "model"
    made: str = importlib.import_module("studies").tiny_model(path)
    return made


@pytest.fixture(scope="module")
def threads():
    """As many threads of torch as before, for the tests that follow."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
