"""The cosine of the expected gradients, beneath the noise of batches, on a run made so that it is known."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from analysis.conflict import queries
from analysis.reading.database import Selection

ALL = Selection()
TRUE = {("one", "two"): -0.5, ("one", "three"): 0.3, ("two", "three"): 0.0}


@pytest.fixture(scope="module")
def noisy_run(records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of known cosine under noise three times their size, those of the last task without any signal."""
    gram = np.eye(3)
    names = ["one", "two", "three"]
    for (one, other), cosine in TRUE.items():
        i, j = names.index(one), names.index(other)
        gram[i, j] = gram[j, i] = cosine
    true = np.zeros((5, 50))
    true[:3, :3] = np.linalg.cholesky(gram)
    true[3] = -true[0]  # a twin's
    halves = records.noisy_halves(true, (300, 4, 2, 2), 0.6, np.random.default_rng(3))
    halves[..., 3, :, :] += halves[..., 0, :, :] - true[0]  # draws the same texts: part of the noise is the same
    tasks = [records.task_info(name) for name in (*names, "twin", "silent")]
    tasks[3] = records.task_info("twin", twin_of="one")
    table = records.gradient_tables(halves, [task.name for task in tasks])
    path: Path = records.write_run(
        tmp_path_factory.mktemp("runs") / "noisy", records.run_info("noisy", tasks), records.status(), table
    )
    return path


def test_the_cosine_is_found_beneath_the_noise(noisy_run: Path) -> None:
    found = queries.task_matrix(noisy_run, ALL).set_index(["branch", "task_i", "task_j"])
    for (one, other), cosine in TRUE.items():
        for branch in "AB":
            row = found.loc[branch, one, other]
            assert row["cosine"] == pytest.approx(cosine, abs=0.08)  # 3 standard errors
            assert abs(row["cos_before"]) <= abs(cosine) / 8 + 0.01  # which the mean of batches does not
            assert row["cosine_low"] < row["cosine"] < row["cosine_high"]
    assert queries.noise(noisy_run, ALL).query("task != 'silent'")["same_task_cosine"].lt(0.1).all()


def test_nothing_is_told_without_signal_and_the_cosine_of_batches_for_shared_texts(noisy_run: Path) -> None:
    found = queries.task_matrix(noisy_run, ALL).set_index(["task_i", "task_j"])
    signals = queries.noise(noisy_run, ALL).set_index("task")["signal"]
    assert signals.loc["silent"].isna().all()
    assert signals.drop("silent").notna().all()
    assert not set(found.xs("silent", level="task_j")["verdict"]) & {"conflict", "aligned"}
    twins = found.loc[("one", "twin")]
    np.testing.assert_allclose(twins["cosine"], twins["cos_before"], atol=0.02)
    assert found.loc[("two", "twin"), "cosine"].notna().all()
