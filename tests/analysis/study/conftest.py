from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def maker(studies: ModuleType, records: ModuleType, tmp_path: Path):
    """Of a study in a directory of its own."""
    return studies.Maker(records, tmp_path / "study")


@pytest.fixture(scope="session")
def finished(studies, records, tmp_path_factory) -> Path:
    """A finished study of three methods, three tasks and three seeds."""
    return studies.three_methods(studies.Maker(records, tmp_path_factory.mktemp("made") / "study")).write()


@pytest.fixture(scope="session")
def paired_study(studies, records, tmp_path_factory) -> Path:
    """A finished study with a transfer matrix of four tasks."""
    return studies.with_pairs(studies.Maker(records, tmp_path_factory.mktemp("made") / "pairs")).write()


@pytest.fixture(scope="session")
def tuned_study(studies, records, tmp_path_factory) -> Path:
    """A finished study in which two of four methods were tuned."""
    maker = studies.tuned(studies.Maker(records, tmp_path_factory.mktemp("made") / "tuned"))
    return maker.write(candidates={"single": 1, "joint": 3, "ortho-lora": 3, "joint-rank32": 1})


@pytest.fixture(scope="session")
def dialled_study(studies, records, tmp_path_factory) -> Path:
    """A finished study over the conflict dial."""
    maker = studies.dialled(studies.Maker(records, tmp_path_factory.mktemp("made") / "dial"))
    return maker.write(axes={"rho": studies.DIAL})
