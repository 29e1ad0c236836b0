"""The answer of a run on the first page: in nats where it can, in cosines where not, and what to do."""

from dataclasses import replace

import numpy as np
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from vectors import drawn, truth

from app.launching import launcher
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.texts import Texts


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.caption, *test.subheader]
    return "\n".join(element.value for element in elements).replace("\\", "")


def recorded(path, steps, config=None, texts=()):
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(path) as recorder:
        config = {"optimizer": "adamw", "snapshots": 2, "tasks": [{"name": name} for name in "abc"]} | (config or {})
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": config}))
        for step in steps:
            found = known_snapshot(step, vectors=drawn(truth(step), step))
            recorder.add_snapshot(step, replace(found, texts=tuple(texts)))
    return path


def test_who_hurts_whom_where_since_when_and_what_to_do(runs_dir, open_page):
    recorded(runs_dir / "x", (4, 8))
    test = open_page("start")
    assert not test.exception
    assert "effects of a task on another are sure." in words(test)
    assert [subheader.value for subheader in test.subheader][:3] == ["Where", "Since when", "What to do"]
    assert len(test.get("plotly_chart")) == 4
    assert "Advised: " in words(test)
    assert "By the snapshots at steps 4 and 8" in words(test)


def test_of_one_snapshot_nothing_is_said_of_when(runs_dir, open_page):
    recorded(runs_dir / "x", (4,))
    test = open_page("start")
    assert "Since when" not in [subheader.value for subheader in test.subheader]
    assert len(test.get("plotly_chart")) == 3


def test_real_sentences_stand_behind_a_pair(runs_dir, open_page):
    said = ["lost <b>much</b>", "lost a little", "gained"]
    nats = np.array([[0.0, 0.05, 0.0], [0.01, 0.02, 0.0], [-0.02, -0.03, 0.0]])
    texts = Texts("a", ("a", "b", "c"), [4, 2, 9], said, ["x", "y", "x"], np.ones(3), nats)
    recorded(runs_dir / "x", (4, 8), texts=[texts])
    test = open_page("start")
    assert not test.exception
    assert "In which texts" in [subheader.value for subheader in test.subheader]
    test.segmented_control(key="way").set_value("b → a").run()
    assert "raises the loss of 2 of 3 validation texts of a" in words(test)
    lists = [element.value.replace("\\", "") for element in test.markdown if element.value.startswith("- **")]
    (much, little), (gained,) = (told.splitlines() for told in lists)
    assert much.startswith("- **+50.0** lost <b>much</b> ")  # with its tags as they are
    assert little.startswith("- **+20.0** lost a little ")
    assert gained.startswith("- **-30.0** gained ")
    test.segmented_control(key="way").set_value("a → b").run()
    assert "No single texts of b are recorded." in words(test).replace("\\", "")


def test_without_held_out_texts_cosines_answer_and_a_line_says_how_to_get_nats(add_run, open_page):
    add_run("only", snapshots=(0,))
    test = open_page("start")
    assert not test.exception
    assert "snapshot_held_out" in words(test)
    assert "movies and tweets: Whole model: conflict" in words(test)
    assert not [button for button in test.button if button.key == "try-only"]


def test_the_advice_is_tried_by_a_click(runs_dir, open_page, monkeypatch):
    run, asked = recorded(runs_dir / "x", (4,)), []
    monkeypatch.setattr(launcher, "try_advice", asked.append)
    open_page("start").button(key="try-x").click().run()
    assert asked == [run]


def test_why_it_cannot_be_tried_is_said(runs_dir, open_page, monkeypatch):
    recorded(runs_dir / "x", (4,))

    def refuse(run):
        raise OrthoLoraError("run 'x-advice' waits or starts already")

    monkeypatch.setattr(launcher, "try_advice", refuse)
    test = open_page("start").button(key="try-x").click().run()
    assert "waits or starts already" in words(test)


def test_nothing_is_to_be_tried_of_a_loop_of_ones_own(runs_dir, open_page):
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(runs_dir / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": {"optimizer": "adamw"}}))
        recorder.add_snapshot(4, known_snapshot(4, vectors=drawn(truth(4), 4)))
    test = open_page("start")
    assert "Advised: " in words(test)
    assert not [button for button in test.button if button.key == "try-x"]


@pytest.mark.parametrize("fields", [{"method": "single", "rule": "sum"}, {}])
def test_a_chosen_run_that_tells_nothing_is_named_beside_one_that_does(fields, add_run, open_page, runs_dir):
    add_run("tells", created=1.0)
    run = add_run("silent", created=2.0, **fields)
    if not fields:
        (run / "run.json").write_text("{")
    test = open_page("start", run="silent")
    assert "Run **tells**" in words(test)
    assert "Of **silent**, which is chosen, nothing is recorded" in words(test)


def test_a_run_that_has_begun_takes_over_when_it_tells_anything(add_run, runs_dir, open_page):
    add_run("older", created=1.0)
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(runs_dir / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": {"optimizer": "adamw"}}))
        test = open_page("start", run="x")
        assert "Run **older**" in words(test)
        assert "Of **x**, which is chosen, nothing is recorded" in words(test)
        recorder.add_snapshot(4, known_snapshot(4, vectors=drawn(truth(4), 4)))
        recorder.flush()
        assert "Run **x**" in words(test.run())
