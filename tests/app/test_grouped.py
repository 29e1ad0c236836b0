"""Pages of a run whose tasks share several adapters: what they show, and what they say there is not."""

import time

import numpy as np
import pandas as pd
import pytest

from app.launching import launcher
from ortho_lora.record.schema import CHECKPOINT

TASKS = ("movies", "tweets", "trec")
GROUPS = [["movies", "tweets"], ["trec"]]


def words(test):
    kinds = [test.markdown, test.caption, test.info, test.error]
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


@pytest.fixture
def run(records, runs_dir):
    """A run of which gradients of two tasks met."""
    rng = np.random.default_rng(0)
    tables = records.gradient_tables(rng.standard_normal((12, 2, 2, 2, 3, 2, 8)), TASKS)
    pairs = tables["pairs"]
    tables["pairs"] = pairs[(pairs["task_i"] == "movies") & (pairs["task_j"] == "tweets")]
    tables["metrics"] = pd.DataFrame(
        [[step, "validation", task, "accuracy", 0.5, 50] for step in (0, 12) for task in TASKS],
        columns=["step", "split", "task", "metric", "value", "examples"],
    )
    fields = {"method": "ortho-lora-grouped", "config": {"groups": GROUPS}, "created": time.time()}
    info = records.run_info("only", [records.task_info(task) for task in TASKS], **fields)
    return records.write_run(runs_dir / "only", info, records.status("finished"), tables)


@pytest.mark.parametrize("page", ["start", "runs", "conflicts", "layers", "metrics", "diagnosis", "launch"])
def test_every_page_shows_it(page, run, open_page):
    test = open_page(page)
    assert not test.exception
    assert not test.error


def test_a_replay_is_not_offered(run, open_page):
    test = open_page("projection")
    assert not test.exception
    assert "Only a run with one adapter is replayed; this one has 2." in words(test)
    assert not [button for button in test.button if button.key == "replay"]


def test_transfer_is_told_of_one_adapter(run, open_page):
    assert "its tasks share 2 adapters: transfer is told of a run whose tasks share one" in words(open_page("transfer"))


def test_gradients_are_drawn_where_they_met(run, open_page):
    test = open_page("learn")
    test.toggle(key="learn-load").set_value(True).run()
    assert test.multiselect(key="learn-tasks").value == ["movies", "tweets"]
    test.multiselect(key="learn-tasks").set_value(["tweets", "trec"]).run()
    assert not test.exception
    assert "Gradients meet where tasks share an adapter: movies + tweets | trec." in words(test)
    test.multiselect(key="learn-tasks").set_value(["movies", "tweets"]).run()
    assert not test.exception
    assert "Gradients meet" not in words(test)


def test_a_diagnosis_does_not_send_to_a_probe_of_it(run, open_page):
    text = words(open_page("diagnosis"))
    assert "probe a run with one adapter" in text
    assert "probe this run" not in text


def test_it_is_not_probed(run):
    (run / CHECKPOINT).parent.mkdir(exist_ok=True)
    (run / CHECKPOINT).write_text("")
    found = launcher.open_run(run.parent, "only")
    assert not launcher.can_probe(found)
    assert launcher.can_resume(found) is False
