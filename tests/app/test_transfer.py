"""The Transfer page: what is predicted, of which snapshot, and what to do where there is nothing."""

import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from infos import INFO, TASK
from rich.console import Console
from snapshots import known_snapshot
from vectors import drawn, truth

from analysis.output.transfer import print_transfer
from analysis.transfer.compared import compared, predictors
from analysis.transfer.predicted import target_progress, transfer_matrix
from ortho_lora.record.draws import PARTS
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo


def words(test):
    return "\n".join(element.value for element in [*test.markdown, *test.caption, *test.info]).replace("\\", "")


def drawn_in(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


@pytest.fixture
def run(runs_dir):
    return recorded(runs_dir / "x", {"optimizer": "adamw", "snapshots": 2, "tasks": [{"name": name} for name in "abc"]})


def recorded(path, config):
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(path) as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": config}))
        for step in (4, 8):
            recorder.add_snapshot(step, known_snapshot(step, vectors=drawn(truth(step), step)))
    return path


def test_shows_all_snapshots_together_and_one_by_its_address(run, open_page):
    for test, at in ((open_page("transfer"), None), (open_page("transfer", snapshot="8", parts="Effect"), 8)):
        assert not test.exception
        heatmap, _ = drawn_in(test)
        shown = [trace for trace in heatmap["data"] if trace.get("coloraxis")]
        assert len(shown) == (1 if at else 3)  # effect, pull, crowding
        sure = transfer_matrix(run, at)["verdict"] != "not sure"
        bold = [text for row in shown[0]["text"] for text in row if "<b>" in text]
        assert len(bold) == sure.sum()
    assert "the snapshot at step 8" in words(test)


def test_the_command_that_tries_the_advice_is_there_to_copy(run, open_page):
    (code,) = open_page("transfer").code
    assert code.value == f"ortho-lora study --from-advice {run}"


def test_no_command_is_offered_where_a_loop_of_its_own_trained(runs_dir, open_page):
    """The study could not train it again, and refuses it."""
    own = recorded(runs_dir / "own", {"optimizer": "adamw", "snapshots": 2})
    test = open_page("transfer")
    assert not test.code
    assert "Advised: " in words(test)
    console = Console(file=StringIO(), width=200)
    print_transfer(console, own)
    told = console.file.getvalue()
    assert "Advised: " in told
    assert "from-advice" not in told


def test_one_part_can_be_chosen(run, open_page):
    test = open_page("transfer")
    test.button_group(key="parts").set_value("Crowding").run()
    assert len([trace for trace in drawn_in(test)[0]["data"] if trace.get("coloraxis")]) == 1


def test_targets_have_a_sentence_only_where_there_are_too_many_for_numbers_in_the_matrix(run, open_page, monkeypatch):
    assert "- a: " not in words(open_page("transfer"))
    monkeypatch.setattr("app.views.transfer.WITH_NUMBERS", 2)
    test = open_page("transfer")
    assert all(f"- {target}: " in words(test) for target in "ab")
    assert test.button_group(key="parts").value == "Effect"


def test_every_target_has_its_progress_in_mixtures(run, open_page):
    progress = drawn_in(open_page("transfer"))[1]
    assert [trace["name"] for trace in progress["data"]] == ["this run's mixture", "alone"]


def mixtures_in(test):
    return [trace["name"] for trace in drawn_in(test)[1]["data"]]


def test_a_link_asks_about_another_mixture(run, open_page, unfold):
    test = open_page("transfer", mixture=["a:0", "elsewhere:3"])
    assert not test.exception
    assert mixtures_in(test) == ["your mixture", "this run's mixture", "alone"]
    assert test.query_params["mixture"] == "a:0"  # of the tasks of this run
    unfold(test, "progress")
    (frame,) = [frame.value for frame in test.dataframe if "mixture" in frame.value]
    asked = frame[frame["mixture"] == "your mixture"].drop(columns="mixture")
    pd.testing.assert_frame_equal(asked, target_progress(run, {"a": 0.0, "b": 1.0, "c": 1.0}))


@pytest.mark.parametrize("mixture", ["a", "a:", "a:-1", "a:nan", "a:1001", ":"])
def test_what_is_no_mixture_is_none(run, open_page, mixture):
    test = open_page("transfer", mixture=mixture)
    assert not test.exception
    assert mixtures_in(test) == ["this run's mixture", "alone"]


def test_without_held_out_texts_it_says_how_to_get_them(add_run, open_page):
    add_run("only", snapshots=(0,))
    assert "snapshot_held_out" in words(open_page("transfer"))


@pytest.fixture
def lookahead(runs_dir):
    """Of a run that is not there."""
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    place = ProbeInfo(run="mine", step=60, seed=0, steps=10)
    rng = np.random.default_rng(0)
    with Recorder(runs_dir / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "probe": place}))
        for draw in range(3):
            for part in PARTS:
                pairs = [(source, target) for target in "abc" for source in "abc"]
                recorder.add(
                    "lookahead", step=60, draw=draw, source=np.array([source for source, _ in pairs], object),
                    target=[target for _, target in pairs], part=part, value=rng.standard_normal(9), error=0.1,
                    examples=50,
                )  # fmt: skip
    return runs_dir / "x"


def test_a_lookahead_shows_what_came(lookahead, open_page):
    test = open_page("transfer")
    assert not test.exception
    (heatmap,) = drawn_in(test)
    assert len([trace for trace in heatmap["data"] if trace.get("coloraxis")]) == 3
    assert "All 10 steps together, mean of 3 draws" in words(test)
    assert "No snapshot with held-out texts is where it begins" in words(test)


def test_a_lookahead_stands_beside_what_a_probe_there_predicted(lookahead, runs_dir, open_page):
    for name, step in (("place", 60), ("elsewhere", 40)):
        tasks = tuple(TASK.model_copy(update={"name": task}) for task in "abc")
        probe = ProbeInfo(run="mine", step=step, seed=0)
        with Recorder(runs_dir / name) as recorder:
            known = {"run_id": name, "tasks": tasks, "probe": probe, "config": {"optimizer": "adamw"}}
            recorder.begin(INFO.model_copy(update=known))
            recorder.add_snapshot(step, known_snapshot(step, vectors=drawn(truth(step), step)))
    assert [path.name for path in predictors(lookahead)] == ["place"]
    test = open_page("transfer", run="x")
    assert not test.exception
    _, scatter = drawn_in(test)
    frame = compared(lookahead, runs_dir / "place")
    shown = frame[(frame["part"] == "odd") & (frame["source"] != frame["target"])]
    points = [trace for trace in scatter["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["text"]) for trace in points) == len(shown)
    assert "pairs: rank correlation" in words(test)


def test_without_a_learning_rate_it_says_so(runs_dir, open_page):
    vectors = drawn(truth(0), 0)
    vectors.rate[:] = np.nan
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(runs_dir / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks}))
        recorder.add_snapshot(0, known_snapshot(0, vectors=vectors))
    assert "do not tell the learning rate" in words(open_page("transfer"))
