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


# They train and wait for minutes: begun last, all would wait for them at the end.
FIRST = [TESTS / "browser" / f"test_{name}.py" for name in ("restarts", "work", "dashboard", "study")]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path) if item.path in FIRST else len(FIRST))


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
