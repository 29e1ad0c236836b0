"""The diagnosis page, with a conflict, with noise, too early, and where there is nothing to diagnose."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ortho_lora.record.schema import ProbeInfo

TASKS = ("movies", "movies-flip", "trec")


def words(test):
    kinds = [test.markdown, test.info, test.error, test.warning, test.caption, test.success, test.subheader]
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


@pytest.fixture
def add(records, runs_dir):
    """Writes a run whose first two tasks have this cosine on every block, and the third nothing to do with them."""

    def written(name="made", cosine=-0.5, steps=80, state="finished", tasks=TASKS, accuracy=None, **fields):
        rng = np.random.default_rng(0)
        directions = np.eye(3, 40)
        directions[1] = cosine * directions[0] + np.sqrt(1 - cosine**2) * np.eye(40)[5]
        gradients = directions[:, None] + 0.1 * rng.standard_normal((steps, 2, 2, 2, 3, 2, 40))
        info = records.run_info(name, [records.task_info(task) for task in tasks], **fields)
        tables = records.gradient_tables(gradients, tasks)
        if accuracy is not None:
            tables["metrics"] = pd.DataFrame(
                [[steps, "validation", task, "accuracy", accuracy, 50] for task in tasks],
                columns=["step", "split", "task", "metric", "value", "examples"],
            )
        return records.write_run(runs_dir / name, info, records.status(state), tables)

    return written


def test_a_conflict_is_said_first_and_shown_with_its_evidence(add, open_page):
    add()
    test = open_page("diagnosis")
    assert not test.exception
    assert "1 of 3 pairs conflict: movies – movies-flip." in test.error[0].value.replace("\\", "")
    (heading,) = [element.value for element in test.markdown if element.value.startswith("####")]
    assert ":red-badge[▼ conflict]" in heading
    said = words(test).replace("\\", "")
    for part in (
        "**Where (branch A):**",
        "**When (branch A):**",
        "**Magnitudes",
        "PCGrad's own condition",
    ):
        assert part in said
    assert "Projection" not in said  # has a page


def test_tasks_that_do_not_conflict_are_told_so_plainly(add, open_page):
    add(cosine=0.5)
    test = open_page("diagnosis")
    assert "No pair conflicts worth the name" in test.success[0].value
    assert not test.error
    assert any(":blue-badge[▲ aligned]" in element.value for element in test.markdown)


def test_outcomes_appear_when_a_run_to_compare_with_has_finished(add, open_page):
    add("ours", accuracy=0.75, config={"steps": 80})
    assert "Not known yet" in words(open_page("diagnosis", run="ours"))
    add("joint", accuracy=0.5, config={"steps": 80}, method="joint", rule="sum")
    test = open_page("diagnosis", run="ours")
    table = next(element.value for element in test.dataframe if "difference" in element.value)
    assert table["task"].tolist() == list(TASKS)
    assert table["difference"].tolist() == [0.25] * 3
    assert "their differences may be chance" in words(test)


def test_too_few_steps_are_called_that(add, open_page):
    add(steps=5)
    test = open_page("diagnosis")
    assert not test.exception
    assert "not enough data" in test.warning[0].value
    assert "Take snapshots" in words(test)


def test_a_probe_is_told_in_its_own_words(add, open_page):
    add(probe=ProbeInfo(run="whole", step=12, seed=0))
    test = open_page("diagnosis")
    assert not test.exception
    said = words(test)
    assert "Probe at step 12 of run whole" in said
    assert "verdicts from 80 steps" in said  # one of before probes took snapshots
    assert "A probe evaluates nothing" in said


def test_pairs_are_filtered_and_ordered(add, open_page):
    add()

    def names(test):
        figure = json.loads(test.get("plotly_chart")[0].proto.spec)
        rows = figure["layout"]["yaxis"]["ticktext"]
        return list(dict.fromkeys(re.match(r"[\w-]+ – [\w-]+", row).group() for row in rows))

    test = open_page("diagnosis")
    assert names(test)[0] == "movies – movies-flip"
    test.selectbox(key="verdict-order").set_value("By name").run()
    assert names(test) == ["movies – movies-flip", "movies – trec", "movies-flip – trec"]
    test.button_group(key="verdicts").set_value(["no conflict worth the name"]).run()
    assert names(test) == ["movies – trec", "movies-flip – trec"]
    assert not [element for element in test.markdown if element.value.startswith("####")]


def test_compared_runs_have_their_summaries(add, open_page):
    add("one", created=2.0)
    add("two", cosine=0.5, created=1.0)
    test = open_page("diagnosis", run="one", compare="two")
    assert "**two**: No pair conflicts worth the name" in words(test)


def test_the_report_is_made_when_asked_and_then_offered(add, open_page, monkeypatch):
    add()
    monkeypatch.setattr("app.views.diagnosis.render", lambda runs, now: f"report on {runs[0].run_id}")
    test = open_page("diagnosis")
    labels = [element.proto.label for element in test.get("download_button")]
    assert "Download the report" not in labels
    next(button for button in test.button if button.label == "Make the report").click().run()
    assert not test.exception
    labels = [element.proto.label for element in test.get("download_button")]
    assert "Download the report" in labels
    assert "JSON" in labels


def test_markup_in_names_is_not_executed(add, open_page):
    add(tasks=("<b>one</b>", "**two**", "[three](http://elsewhere)"))
    test = open_page("diagnosis")
    assert not test.exception
    shown = "\n".join(element.value for kind in (test.markdown, test.error, test.caption) for element in kind)
    assert "<b>" not in shown
    assert "**two**" not in shown
    assert "](http" not in shown
    figure = json.loads(test.get("plotly_chart")[0].proto.spec)
    assert "<b>one" not in figure["layout"]["yaxis"]["ticktext"][0]


def test_where_nothing_meets_it_says_so(add_run, open_page):
    add_run("only", method="single", rule="sum")
    test = open_page("diagnosis")
    assert not test.exception
    assert "nothing to compare" in words(test)


def test_no_run_and_a_broken_one(add_run, runs_dir, open_page):
    assert "make app" in words(open_page("diagnosis"))
    run = add_run("only")
    for path in run.glob("*/part-000001.parquet"):
        path.write_bytes(b"torn")
    test = open_page("diagnosis")
    assert not test.exception
    assert "part-000001.parquet" in words(test)


def test_of_very_many_pairs_the_first_are_drawn_and_all_are_in_the_numbers(add, open_page, unfold, monkeypatch):
    monkeypatch.setattr("app.views.diagnosis.MOST_DRAWN", 2)
    add()
    test = open_page("diagnosis")
    assert "Drawn are the first 2 of 6; the numbers have all." in words(test)
    assert len(unfold(test, "verdicts").dataframe[0].value) == 6
