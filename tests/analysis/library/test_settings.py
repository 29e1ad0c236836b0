import pandas as pd
import pytest

from analysis.library.runs import list_runs
from analysis.library.settings import final_table, setting_differences


@pytest.fixture
def infos(records):
    """Makes identities: infos(name={setting: value, ...}, ...); fields of run.json begin with a capital."""

    def make(**runs):
        found = {}
        for name, settings in runs.items():
            tasks = settings.get("tasks", [{"name": "movies"}])
            fields = {key.lower(): value for key, value in settings.items() if key.istitle()}
            config = {key: value for key, value in settings.items() if not key.istitle()} | {"tasks": tasks}
            known = [records.task_info(task["name"]) for task in tasks]
            found[name] = records.run_info(name, known, config=config, **fields)
        return found

    return make


def rows(frame):
    return {row[0]: row[1:] for row in frame.itertuples(index=False, name=None)}


def test_equal_runs_differ_in_nothing(infos):
    frame = setting_differences(infos(one={"rank": 8}, two={"rank": 8}))
    assert frame.empty
    assert list(frame.columns) == ["setting", "one", "two"]


def test_only_what_differs_and_in_effect(infos):
    found = setting_differences(
        infos(
            one={"rank": 8, "clip": None, "rule": None, "steps": 5, "Rule": "sum"},
            two={"rank": 4, "clip": 1.0, "rule": None, "steps": 5},
        )
    )
    assert rows(found) == {"rule": ("sum", "pcgrad"), "rank": ("8", "4"), "clip": ("null", "1.0")}


def test_nested_settings_are_flattened_and_lists_joined(infos):
    found = setting_differences(infos(one={"a": {"b": {"c": 1}}, "m": ["q", "v"]}, two={"a": {"b": {"c": 2}}, "m": []}))
    assert rows(found) == {"a.b.c": ("1", "2"), "m": ("q, v", "")}


def test_tasks_are_compared_by_name(infos):
    found = setting_differences(
        infos(
            one={"tasks": [{"name": "x", "loss_weight": 1.0}, {"name": "y", "loss_weight": 1.0}]},
            two={"tasks": [{"name": "y", "loss_weight": 2.0}, {"name": "x", "loss_weight": 1.0}]},
            three={"tasks": [{"name": "y", "loss_weight": 1.0, "path": "y.csv"}]},
        )
    )
    assert rows(found) == {
        "tasks": ("x, y", "y, x", "y"),
        "tasks.y.loss_weight": ("1.0", "2.0", "1.0"),
        "tasks.y.path": (None, None, "y.csv"),
    }


def test_runs_of_somebodys_own_loop_have_no_settings_but_a_method(records, infos):
    own = records.run_info("own", [records.task_info("a")], config={}, method="joint", seed=1)
    found = rows(setting_differences(infos(one={"rank": 8}) | {"own": own}))
    assert found["method"] == ("ortho-lora", "joint")
    assert found["rank"] == ("8", None)


def test_final_metrics_side_by_side(records, tmp_path):
    def metrics(values):
        rows = [
            {"step": step, "split": "validation", "task": task, "metric": "accuracy", "value": value, "examples": 9}
            for step in (0, 5)
            for task, value in values.items()
        ]
        return {"metrics": pd.DataFrame(rows)}

    for name, values in {"one": {"x": 0.5, "y": 0.25}, "two": {"y": 0.75}}.items():
        info = records.run_info(name, [records.task_info(task) for task in values], created=float(len(values)))
        records.write_run(tmp_path / name, info, records.status(), metrics(values))
    frame = final_table(list_runs(tmp_path))
    assert list(frame.columns) == ["task", "metric", "one", "two"]
    assert frame["task"].tolist() == ["x", "y"]
    assert frame["one"].tolist() == [0.5, 0.25]
    assert frame["two"].isna().tolist() == [True, False]
