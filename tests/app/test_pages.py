"""Every page with no run, one, several, a live one and a broken one."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

from ortho_lora.record.manifest import read_manifest
from ortho_lora.record.schema import ProbeInfo, read_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["start", "learn", "runs", "launch", "conflicts", "transfer", "layers", "projection", "metrics", "diagnosis"]
SHOWING = ["conflicts", "layers", "projection", "metrics", "diagnosis"]


def figures(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.warning, *test.caption, *test.success]
    return "\n".join(element.value for element in elements)


@pytest.mark.parametrize("page", PAGES)
def test_no_run(page, runs_dir, open_page):
    test = open_page(page)
    assert not test.exception
    assert page in ("launch", "learn") or "make app" in words(test)
    assert not runs_dir.exists()  # looking writes nothing


def test_router_opens_on_start(add_run):
    add_run("only")
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=PATIENCE).run()
    assert not test.exception
    assert [title.value for title in test.title] == ["Which tasks fight over one adapter?"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("state", ["finished", "running", "stopped", "failed"])
def test_one_run(page, state, add_run, open_page):
    add_run("only", state, {"step": 12, "total": 20, "eta_seconds": 7.0, "losses": {"trec": 0.5}})
    test = open_page(page)
    assert not test.exception
    assert not [error for error in test.error if state != "failed"]
    if page in SHOWING:
        assert figures(test)


def test_newest_of_several_runs_is_shown_and_another_by_its_address(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", created=2.0)
    assert open_page("conflicts").selectbox(key="run").value == "newer"
    assert open_page("conflicts", run="older").selectbox(key="run").value == "older"


def test_runs_are_listed_newest_first_with_state_and_metrics(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", "failed", created=2.0)
    frame = open_page("runs").dataframe[0].value
    assert frame["run"].tolist() == ["newer", "older"]
    assert frame["state"].tolist() == ["✕ failed", "✓ finished"]
    assert "trec .50" in frame["final"].iloc[0]


def test_metrics_of_several_runs_are_overlaid(add_run, open_page):
    add_run("one", created=2.0)
    add_run("two", created=1.0)
    test = open_page("metrics")
    alone = {trace["name"] for trace in figures(test)[0]["data"] if trace.get("name")}
    test.multiselect(key="compare").select("two").run()
    both = {trace["name"] for trace in figures(test)[0]["data"] if trace.get("name")}
    assert "two" not in alone
    assert {"one", "two"} <= both


@pytest.mark.parametrize("page", ["conflicts", "transfer", "layers", "projection"])
def test_single_says_that_nothing_meets(page, add_run, open_page):
    add_run("only", method="single", rule="sum")
    test = open_page(page)
    assert not test.exception
    assert "nothing" in words(test)


def test_joint_says_that_it_projects_nothing(add_run, open_page):
    add_run("only", method="joint", rule="sum")
    assert "projects nothing" in words(open_page("projection"))


@pytest.mark.parametrize("page", PAGES)
def test_broken_runs_are_named_and_the_rest_is_shown(page, add_run, runs_dir, open_page):
    add_run("good", created=1e10)
    broken = add_run("broken", created=1.0)
    (broken / "run.json").write_text("{")
    (runs_dir / "foreign").mkdir()
    test = open_page(page)
    assert not test.exception
    if page in SHOWING:
        assert test.selectbox(key="run").value == "good"
        assert "cannot be read" in words(open_page(page, run="broken"))


@pytest.mark.parametrize("page", SHOWING)
def test_torn_part_is_told_in_words(page, add_run, open_page):
    run = add_run("only")
    for path in run.glob("*/part-000001.parquet"):
        path.write_bytes(b"torn")
    test = open_page(page)
    assert not test.exception
    assert "part-000001.parquet" in words(test).replace("\\", "")


def test_markup_in_names_is_not_executed(add_run, runs_dir, open_page):
    run = add_run("only", "failed", {"message": "<script>alert(1)</script> **bold**"})
    assert run.parent == runs_dir
    shown = words(open_page("runs"))
    assert "<script>" not in shown
    assert "**bold**" not in shown


def test_lost_run_is_told(add_run, open_page):
    add_run("only", "running", {"pid": 2**22 - 1, "process_start_time": 1.0})
    assert open_page("runs").dataframe[0].value["state"].tolist() == ["? lost"]
    assert "Stop" not in [button.label for button in open_page("launch").button]


def test_live_run_has_progress_and_stop(add_run, open_page):
    add_run("only", "running", {"step": 5, "total": 20, "eta_seconds": 7.0, "losses": {"trec": 0.5}})
    test = open_page("launch")
    assert "step 5 of 20, about 7 s left" in words(test)
    assert "Stop" in [button.label for button in test.button]
    assert [(metric.label, metric.value) for metric in test.metric] == [("trec loss", "0.500")]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_probe(page, state, add_run, open_page):
    """It has no metrics, and its tasks no examples to evaluate."""
    add_run("whole", created=1.0)
    place = ProbeInfo(run="whole", step=12, seed=0)
    run = add_run("probed", state, {"step": 12, "total": 40}, created=2.0, probe=place)
    (run / "manifest.json").write_text(read_manifest(run).replaced("metrics", []).model_dump_json())
    info = read_run(run)
    bare = [task.model_copy(update={"evaluation_examples": {}, "majority": {}}) for task in info.tasks]
    (run / "run.json").write_text(info.model_copy(update={"tasks": tuple(bare)}).model_dump_json())
    test = open_page(page, run="probed", compare="whole")
    assert not test.exception
    assert not test.error
    if page in SHOWING:
        assert figures(test)
    if page == "runs":
        listed = test.dataframe[0].value
        assert listed["method"].tolist() == ["ortho-lora, probe at step 12 of run whole", "ortho-lora"]
        assert not listed["final"].iloc[0]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("state", ["running", "finished"])
def test_run_of_somebodys_own_loop(page, state, runs_dir, open_page):
    """It has no evaluation, and does not know how many steps there will be."""
    from models import Problem, tiny_bert

    from ortho_lora import OrthoLoRA, Recorder

    problem = Problem(tiny_bert(), [4, 4, 4])
    recorder = Recorder(runs_dir / "mine", flush_seconds=0)
    surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
    for _ in range(3):
        surgeon.backward(problem.losses())
    recorder.flush()
    recorder.status("running", step=3, losses={"a": 1.0})
    if state == "finished":
        recorder.close()
    test = open_page(page)
    assert not test.exception
    assert not test.error
    if page in SHOWING:
        assert figures(test)
    if page == "runs":
        assert test.dataframe[0].value["steps"].tolist() == ["3"]
    if page == "launch" and state == "running":
        assert "step 3" in words(test)
        assert "of 0" not in words(test)
