"""A diagnosis begins with what was not finite; runs are written by `Recorder`, and one as former versions did."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.nonfinite import Nonfinite, nonfinite
from ortho_lora.errors import OrthoLoraError

TASKS = ["a", "b"]
STEPS, BAD = 60, 40


def gradients(records: ModuleType, bad: dict[str, range]) -> dict[str, pd.DataFrame]:
    halves = records.noisy_halves(np.eye(2, 12), (STEPS, 2, 2, 2), 0.3, np.random.default_rng(0))
    tables: dict[str, pd.DataFrame] = records.gradient_tables(halves, TASKS)
    for task, steps in bad.items():
        of = tables["norms"]["task"].eq(task) & tables["norms"]["step"].isin(steps)
        tables["norms"].loc[of, ["norm_before", "norm_after", "half_product"]] = np.nan
        of = tables["pairs"]["step"].isin(steps)
        tables["pairs"].loc[of, ["cos_before", "cos_after"]] = np.nan
    return tables


def steps(losses: dict[str, dict[int, float | None]]) -> pd.DataFrame:
    rows = [
        {"step": step, "task": task, "loss": losses.get(task, {}).get(step, 1.0), "learning_rate": 0.1}
        | {"seconds": 0.1, "order": place}
        for step in range(STEPS)
        for place, task in enumerate(TASKS)
    ]
    kept = pd.arrays.ArrowExtensionArray(pa.array([row["loss"] for row in rows], pa.float32()))  # NaN is not null
    return pd.DataFrame(rows).assign(loss=kept)


def made(
    records: ModuleType,
    path: Path,
    losses: dict[str, dict[int, float | None]],
    bad: dict[str, range],
    events: list[tuple[int, str, str | None]] | None = None,
) -> Path:
    tables = gradients(records, bad) | {"steps": steps(losses)}
    if events is not None:
        tables["events"] = pd.DataFrame(
            [(step, event, task, "") for step, event, task in events], columns=["step", "event", "task", "reason"]
        )
    info = records.run_info(path.name, [records.task_info(task) for task in TASKS])
    run: Path = records.write_run(path, info, records.status(), tables)
    return run


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_run_whose_losses_are_not_finite_from_a_step_on(records: ModuleType, tmp_path: Path, value: float) -> None:
    late = range(BAD, STEPS)
    losses: dict[str, dict[int, float | None]] = {"b": dict.fromkeys(late, value), "a": {STEPS - 1: value}}
    run = made(records, tmp_path / "run", losses, {"b": late})
    assert nonfinite(run) == (
        Nonfinite("b", BAD, STEPS - 1, 20, 0, str(value)),
        Nonfinite("a", STEPS - 1, STEPS - 1, 1, 0, str(value)),
    )
    found = diagnose(run)
    assert found.summary.startswith(f"The loss or gradient of b was not finite at step {BAD} (loss {value}), and in 20")
    assert "So were those of a (from step 59, 1)." in found.summary
    assert "may rest on it" in found.summary
    assert found.suggestions[0].kind == "finite losses"
    assert "nothing" not in {one.kind for one in found.suggestions}
    printed = CliRunner().invoke(app, ["diagnose", str(run)]).stdout
    assert f"b was not finite at step {BAD}" in " ".join(printed.split())


def test_a_gradient_that_was_skipped(records: ModuleType, tmp_path: Path) -> None:
    events = [(BAD, "nonfinite", "b"), (BAD, "skipped", None)]
    run = made(records, tmp_path / "run", {}, {"b": range(BAD, BAD + 1)}, events)
    assert nonfinite(run) == (Nonfinite("b", BAD, BAD, 1, 1, "1.0"),)
    assert "These steps were left out of the training." in diagnose(run).summary


def test_a_record_of_a_former_version_has_null_for_a_loss_that_is_not_finite(
    records: ModuleType, tmp_path: Path
) -> None:
    late = range(BAD, STEPS)
    losses: dict[str, dict[int, float | None]] = {"b": dict.fromkeys(late, None)}
    found = nonfinite(made(records, tmp_path / "run", losses, {"b": late}))
    assert found == (Nonfinite("b", BAD, STEPS - 1, 20, 0, "not finite"),)


def test_what_is_not_known_is_not_taken_for_it(records: ModuleType, tmp_path: Path) -> None:
    """A task that is missing from a step has neither loss nor weight; a mixed batch may tell no losses at all."""
    unknown: dict[str, dict[int, float | None]] = {task: dict.fromkeys(range(STEPS), None) for task in TASKS}
    run = made(records, tmp_path / "run", unknown, {})
    assert nonfinite(run) == ()
    tables = gradients(records, {"b": range(BAD, STEPS)})
    missing = tables["norms"]["norm_before"].isna()
    tables["norms"].loc[missing, "weight"] = np.nan
    absent = records.write_run(
        tmp_path / "absent",
        records.run_info("absent", [records.task_info(task) for task in TASKS]),
        records.status(),
        tables | {"steps": steps({"b": dict.fromkeys(range(BAD, STEPS), None)})},
    )
    assert nonfinite(absent) == ()
    assert "finite" not in diagnose(absent).summary


def test_a_run_without_a_single_gradient_says_why(records: ModuleType, tmp_path: Path) -> None:
    tables = {"steps": steps({"b": {0: float("nan")}})}
    info = records.run_info("run", [records.task_info(task) for task in TASKS])
    run = records.write_run(tmp_path / "run", info, records.status(), tables)
    with pytest.raises(OrthoLoraError, match=r"The loss or gradient of b was not finite at step 0 \(loss nan\)\. .*no"):
        diagnose(run)
