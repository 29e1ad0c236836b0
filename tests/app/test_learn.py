"""The Learn page with no run, one, several, a live one, a broken one; and the lesson on it."""

import numpy as np
import pandas as pd
import psutil
import pytest
from snapshots import snapshot_tables

import ortho_lora.launching.queue as queue
from analysis.library.samples import SAMPLES
from analysis.transfer.predicted import transfer_matrix
from app.shared import glossary
from app.views import lesson_runs
from app.views.exercises import EXERCISES, HARM, ZERO


def words(test):
    return "\n".join(
        element.value for kind in ("markdown", "caption", "error", "warning") for element in getattr(test, kind)
    )


def buttons(test):
    return [button.label for button in test.button]


def test_no_run_shows_the_playground_the_lesson_and_every_term(runs_dir, open_page):
    test = open_page("learn")
    assert not test.exception
    assert "Choose a run in the sidebar" in words(test)
    assert any(label.startswith("Train the 7 runs of the lesson, about") for label in buttons(test))
    assert {term.name for term in glossary.TERMS.values()} <= {heading.value for heading in test.subheader}
    assert not runs_dir.exists()  # looking writes nothing


def test_more_batches_narrow_the_interval_of_a_snapshot(runs_dir, open_page, unfold):
    def width(test):
        assert not test.exception
        assert len(test.get("plotly_chart")) == 1
        snapshot = unfold(test, "noise-lab").dataframe[0].value.set_index("estimate").loc["snapshot"]
        return snapshot["high"] - snapshot["low"]

    test = open_page("learn")
    before = width(test)
    assert width(test.select_slider(key="noise-batches").set_value(512).run()) < before / 2
    test.button(key="noise-again").click().run()
    assert test.session_state["noise-draw"] == 1


@pytest.mark.parametrize("state", ["finished", "running", "stopped", "failed"])
def test_gradients_of_a_run_are_loaded_when_asked_for(state, add_run, open_page):
    add_run("only", state, {"step": 12, "total": 20})
    add_run("older", created=1.0)
    test = open_page("learn", run="only")
    assert "learn-tasks" not in [chosen.key for chosen in test.multiselect]
    test.toggle(key="learn-load").set_value(True).run()
    assert not test.exception
    assert not test.error
    assert test.multiselect(key="learn-tasks").value == ["tweets", "trec"]
    assert test.slider(key="learn-step-only").value == 11
    cosines = [float(option.split()[-1]) for option in test.selectbox(key="learn-block-only").options]
    assert cosines == sorted(cosines)
    test.multiselect(key="learn-tasks").set_value(["trec"]).run()
    assert "Choose two tasks, or three" in words(test)
    test.multiselect(key="learn-tasks").set_value(["movies", "tweets", "trec"]).run()
    assert not test.exception


def test_arrows_are_those_of_the_record(add_run, open_page, monkeypatch):
    shown = []
    monkeypatch.setattr("app.views.learn.playground", lambda *arguments, key: shown.append(arguments))
    add_run("only")
    test = open_page("learn")
    assert shown[-1] == ()
    test.toggle(key="learn-load").set_value(True).run()
    test.multiselect(key="learn-tasks").set_value(["trec", "movies", "tweets"]).run()
    origin, names, arrows = shown[-1]
    assert "Run only, step 11" in origin
    assert "of the length of tweets. Turn the view" in origin
    assert names == ["trec", "movies", "tweets"]  # in the reader's order, which the arrows follow
    cosine = arrows[0] @ arrows[1] / np.linalg.norm(arrows[0]) / np.linalg.norm(arrows[1])
    assert f"cosine {cosine:+.2f}" in origin


@pytest.mark.parametrize("fields", [{"method": "single", "rule": "sum"}])
def test_run_where_no_gradients_meet_is_not_offered(fields, add_run, open_page):
    add_run("only", **fields)
    test = open_page("learn")
    assert not test.exception
    assert "learn-load" not in [toggle.key for toggle in test.toggle]


def test_broken_run_leaves_the_page_whole(add_run, open_page):
    (add_run("broken") / "run.json").write_text("{")
    test = open_page("learn", run="broken")
    assert not test.exception
    assert "learn-load" not in [toggle.key for toggle in test.toggle]


def test_torn_part_is_told_in_words(add_run, open_page):
    run = add_run("only")
    for path in run.glob("*/part-00000[12].parquet"):
        path.write_bytes(b"torn")
    test = open_page("learn")
    test.toggle(key="learn-load").set_value(True).run()
    assert not test.exception


# --- the lesson ---


@pytest.fixture
def add_lesson(records, runs_dir):
    """Writes runs of the lesson: a task and its twin, whose gradients have the cosine given."""

    def add(name, tasks=("movies", "movies-flip"), cosine=-0.5, state="finished", **status):
        rng = np.random.default_rng(0)
        true = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
        tables = records.gradient_tables(records.noisy_halves(true, (12, 2, 2, 2), 0.3, rng), tasks)
        tables["steps"] = pd.DataFrame(
            [
                {"step": step, "task": task, "loss": 1.0, "learning_rate": 1e-3, "seconds": 0.1, "order": order}
                for step in range(12)
                for order, task in enumerate(tasks)
            ]
        )
        tables["metrics"] = pd.DataFrame(
            [
                {"step": 12, "split": "validation", "task": task, "metric": "accuracy", "value": 0.7, "examples": 50}
                for task in tasks
            ]
        )
        if name == lesson_runs.UNRELATED:
            tables |= snapshot_tables((12,), tasks, (0, 1))
        infos = [records.task_info(tasks[0]), records.task_info(tasks[1])]
        if tasks[1] != "movies":
            infos[1] = records.task_info(tasks[1], twin_of=tasks[0])
        info = records.run_info(name, infos, method="joint", rule="sum")
        return records.write_run(runs_dir / name, info, records.status(state, **status), tables)

    return add


@pytest.fixture
def whole_lesson(add_lesson):
    for rho, name in lesson_runs.DIAL.items():
        add_lesson(name, cosine=1 - 2 * rho)
    add_lesson(lesson_runs.OWN_HEAD, cosine=0.9)
    add_lesson(lesson_runs.UNRELATED, ("trec", "movies"), cosine=0.0)


def test_questions_come_before_answers(whole_lesson, open_page):
    test = open_page("learn")
    assert not test.exception
    assert len(test.get("plotly_chart")) == 1  # through noise
    assert not any("Train" in label or "Go on" in label for label in buttons(test))
    test.radio(key="lesson-dial").set_value("near -0.5").run()
    assert len(test.get("plotly_chart")) == 2
    assert "Not so: half of the texts pull together" in words(test)
    assert {metric.label: metric.value for metric in test.metric}["Task's accuracy"] == "70%"
    test.radio(key="lesson-own-head").set_value("agree after a few steps").run()
    assert "Right: with two heads they come to agree" in words(test)
    assert "Conflict lives in" not in words(test)
    test.radio(key="lesson-why").set_value("AdamW cancels the conflict").run()
    assert "Not so: the second head learns the opposite sign" in words(test)
    test.radio(key="lesson-unrelated").set_value("about 50%").run()
    assert not test.exception
    assert not test.error
    assert "Right: about half" in words(test)
    numbers = test.dataframe[-1].value
    assert {"rate_before", "rate_low", "rate_high", "cos_before"} <= set(numbers)
    assert set(numbers["branch"]) == {"A", "B"}
    assert "multiplied gradients of different texts only" in words(test)
    assert "Whole model: aligned, strong: cosine" in words(test).replace("\\", "")
    assert "two halves of one task's own batch" in words(test)


def test_every_exercise_is_right_by_its_records(open_page, runs_dir, monkeypatch):
    """Those that come with the package."""
    monkeypatch.setenv("ORTHO_LORA_SAMPLES", "on")
    test = open_page("learn")
    every = [one for several in EXERCISES.values() for one in several]
    for place, one in enumerate(every, 1):
        test.radio(key=f"lesson-{one.key}").set_value(one.choices[one.right]).run()
        assert not test.exception
        assert f"Right: {one.why}" in words(test)
        assert f"{place} of {len(every)} answered" in words(test) or (test.run() and f"{place} of" in words(test))
    zero = next(table.value for table in test.dataframe if "step 0" in table.value)
    assert zero.loc["branch A", "step 0"] == 0 < zero.loc["branch B", "step 0"]
    assert (zero["step 1"] > 0).all()
    effects = transfer_matrix(SAMPLES / "sample-demo").set_index(["source", "target"])
    assert effects.loc[("tweets", "trec"), "verdict"] == "harms"
    assert f"Not so: {HARM.why}" in words(test.radio(key="lesson-harm").set_value(HARM.choices[0]).run())


def test_who_teaches_finds_all_answers_behind_a_link(open_page, runs_dir):
    assert ZERO.why not in words(open_page("learn"))
    shown = words(open_page("learn", teach="true"))
    for title, several in EXERCISES.items():
        assert f"[{title}](learn#lesson-{several[0].key})" in shown
        assert all(f"*{one.choices[one.right]}.* Told then: {one.why}" in shown for one in several)


def test_dial_follows_the_position(whole_lesson, open_page):
    test = open_page("learn")
    test.radio(key="lesson-dial").set_value("near 0").run()
    test.select_slider(key="lesson-rho").set_value(0.0).run()
    assert not test.exception
    assert float({metric.label: metric.value for metric in test.metric}["Cosine on B"]) > 0.8


def start_button(test):
    return next(button for button in test.button if "about" in button.label)


def test_button_starts_the_first_run_and_pause_ends_after_it(add_lesson, runs_dir, open_page, monkeypatch):
    started = []

    def start(config, where, run_id):
        started.append(run_id)
        with queue.lock(where):
            queue.write_ticket(where, run_id, queue.Ticket.of(psutil.Process()))

    monkeypatch.setattr("app.launching.launcher.start", start)
    test = open_page("learn")
    start_button(test).click().run()
    assert not test.exception
    assert started == ["lesson-dial-0"]
    test.run()
    assert started == ["lesson-dial-0"]  # it is still loading
    add_lesson("lesson-dial-0")
    test.run()
    assert started == ["lesson-dial-0", "lesson-dial-0.25"]
    next(button for button in test.button if button.label == "Pause").click().run()
    add_lesson("lesson-dial-0.25")
    test.run()
    assert len(started) == 2
    assert start_button(test).label.startswith("Go on, about")


def test_a_run_that_did_not_start_is_told_and_not_tried_again(runs_dir, open_page, monkeypatch):
    started = []

    def start(config, where, run_id):
        started.append(run_id)
        (where / ".launch").mkdir(parents=True)
        (where / ".launch" / f"{run_id}.log").write_text("no assets")  # and no ticket: its process is gone

    monkeypatch.setattr("app.launching.launcher.start", start)
    test = open_page("learn")
    start_button(test).click().run()
    test.run()
    assert "did not start" in words(test)
    assert [code.value for code in test.code] == ["no assets"]
    test.run()
    assert started == ["lesson-dial-0"]


def test_lesson_goes_on_after_a_reload(add_lesson, open_page):
    add_lesson("lesson-dial-0", state="running", step=20)
    test = open_page("learn")
    assert "Pause" in buttons(test)
    assert not test.exception
