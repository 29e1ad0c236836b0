"""Curves of runs and of seeds put together, their clock and smoothing."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.conflict import queries
from analysis.outcomes import trajectories
from analysis.outcomes.scores import MEAN
from ortho_lora.record.schema import RunInfo

SPLIT = "validation"


@pytest.fixture
def infos(records: ModuleType) -> dict[str, RunInfo]:
    tasks = [records.task_info("movies"), records.task_info("trec"), records.task_info("twin", twin_of="movies")]
    settings = {"rank": 8}
    return {
        "one": records.run_info("one", tasks, seed=0, config={"seed": 0, **settings}),
        "two": records.run_info("two", tasks, seed=1, config={"seed": 1, **settings}),
        "other": records.run_info("other", tasks, method="joint", rule="sum", config={"seed": 0, **settings}),
    }


def values(runs: dict[str, float], steps: tuple[int, ...] = (0, 10)) -> pd.DataFrame:
    place = {"movies": 0.1, "trec": 0.3, "twin": 0.9}
    return pd.DataFrame(
        [
            {"run": run, "step": step, "split": SPLIT, "task": task, "metric": metric, "value": base + own + step / 100}
            for run, base in runs.items()
            for step in steps
            for task, own in place.items()
            for metric in ("accuracy", "loss")
        ]
    )


def test_mean_leaves_out_twins(infos: dict[str, RunInfo]) -> None:
    curves = trajectories.metric_curves(values({"one": 0.0}), infos, SPLIT)
    assert set(curves["metric"]) == {"accuracy"}
    mean = curves[curves["task"] == MEAN]
    np.testing.assert_allclose(mean["value"], [0.2, 0.3])
    assert mean["step"].tolist() == [0, 10]


def test_mean_waits_for_every_task_and_mixes_no_directions(infos: dict[str, RunInfo], records: ModuleType) -> None:
    frame = values({"one": 0.0})
    late = frame[~((frame["task"] == "trec") & (frame["step"] == 10))]
    curves = trajectories.metric_curves(late, infos, SPLIT)
    assert curves[curves["task"] == MEAN]["step"].tolist() == [0]
    mixed = {"one": records.run_info("one", [records.task_info("movies"), records.task_info("trec", metric="rmse")])}
    frame.loc[(frame["task"] == "trec") & (frame["metric"] == "accuracy"), "metric"] = "rmse"
    assert MEAN not in set(trajectories.metric_curves(frame, mixed, SPLIT)["task"])


def test_another_metric_is_chosen_by_its_name(infos: dict[str, RunInfo]) -> None:
    assert set(trajectories.metric_curves(values({"one": 0.0}), infos, SPLIT, "loss")["metric"]) == {"loss"}
    assert trajectories.metric_curves(values({"one": 0.0}), infos, SPLIT, "f1").empty


def test_seeds_are_put_together_and_methods_are_not(infos: dict[str, RunInfo]) -> None:
    groups = trajectories.seed_groups(infos)
    assert groups == {"one": "ortho-lora, 2 seeds", "two": "ortho-lora, 2 seeds", "other": "other"}
    curves = trajectories.metric_curves(values({"one": 0.0, "two": 0.2, "other": 0.5}), infos, SPLIT)
    found = trajectories.over_seeds(curves, groups)
    movies = found[(found["task"] == "movies") & (found["step"] == 10)].set_index("series")
    assert movies.loc["ortho-lora, 2 seeds", ["value", "low", "high", "runs"]].tolist() == pytest.approx(
        [0.3, 0.2, 0.4, 2]
    )
    assert movies.loc["other", "runs"] == 1


def test_other_settings_are_another_group(infos: dict[str, RunInfo]) -> None:
    for name, rank, seed in (("three", 16, 0), ("four", 16, 1)):
        infos[name] = infos["one"].model_copy(update={"run_id": name, "config": {"seed": seed, "rank": rank}})
    assert trajectories.seed_groups(infos) == {
        "one": "ortho-lora like one, 2 seeds",
        "two": "ortho-lora like one, 2 seeds",
        "three": "ortho-lora like three, 2 seeds",
        "four": "ortho-lora like three, 2 seeds",
        "other": "other",
    }


def test_seeds_have_majorities_of_their_own(infos: dict[str, RunInfo]) -> None:
    tasks = [task.model_copy(update={"majority": {SPLIT: {"accuracy": 0.7}}}) for task in infos["two"].tasks]
    infos["two"] = infos["two"].model_copy(update={"tasks": tuple(tasks)})
    assert len(set(trajectories.seed_groups(infos).values())) == 2


def test_runs_without_settings_stay_apart(infos: dict[str, RunInfo]) -> None:
    loops = {name: info.model_copy(update={"run_id": name, "config": {}}) for name, info in infos.items()}
    assert trajectories.seed_groups(loops) == {name: name for name in loops}


def test_band_ends_where_the_shortest_run_does(infos: dict[str, RunInfo]) -> None:
    frame = values({"one": 0.0, "two": 0.2})
    curves = trajectories.metric_curves(frame[~((frame["run"] == "two") & (frame["step"] == 10))], infos, SPLIT)
    found = trajectories.over_seeds(curves, trajectories.seed_groups(infos))
    assert set(found["step"]) == {0}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0, 0.95))
def test_smoothing_is_the_debiased_moving_average(numbers: list[float], weight: float) -> None:
    curves = pd.DataFrame({"series": "one", "task": "trec", "step": range(len(numbers)), "value": numbers})
    total, scale, expected = 0.0, 0.0, []
    for number in numbers:
        total, scale = weight * total + number, weight * scale + 1
        expected.append(total / scale)
    found = trajectories.smooth(curves, weight)
    np.testing.assert_allclose(found["smoothed"], expected, rtol=1e-9, atol=1e-9)
    assert found["value"].tolist() == numbers


def test_smoothing_stays_within_its_curve_and_passes_over_gaps() -> None:
    curves = pd.DataFrame(
        {"series": ["one"] * 3 + ["two"], "task": "trec", "step": [0, 1, 2, 0], "value": [1.0, np.nan, 3.0, 9.0]}
    )
    np.testing.assert_allclose(trajectories.smooth(curves, 0.5)["smoothed"], [1.0, np.nan, 7 / 3, 9.0])


@pytest.mark.parametrize("bins", [400, 7])
def test_clock_is_the_sum_of_the_steps_before(run: Path, bins: int) -> None:
    clock = queries.elapsed([run], bins=bins)
    assert clock["step"].iloc[-1] == 80
    np.testing.assert_allclose(clock["seconds"], 0.1 * clock["step"], rtol=1e-5)
    curves = pd.DataFrame({"series": [run.name] * 3, "task": "trec", "step": [0, 40, 80], "value": 0.0})
    np.testing.assert_allclose(trajectories.with_seconds(curves, clock)["seconds"], [0, 4, 8], rtol=1e-5)


def test_no_clock_no_seconds(run: Path) -> None:
    curves = pd.DataFrame({"series": ["unknown"], "task": "trec", "step": [3], "value": 0.0})
    assert trajectories.with_seconds(curves, queries.elapsed([run])).isna()["seconds"].all()


def test_last_values_are_a_row_a_run(infos: dict[str, RunInfo]) -> None:
    curves = trajectories.metric_curves(values({"two": 0.2, "one": 0.0}), infos, SPLIT)
    final = trajectories.final_values(curves)
    assert final["series"].tolist() == ["two", "one"]
    assert final.columns.tolist() == ["series", "step", "movies", "trec", "twin", MEAN]
    assert final["step"].tolist() == [10, 10]
    assert final[MEAN].tolist() == pytest.approx([0.5, 0.3])
