"""The Launch page: what the form makes of what is entered, and what it says of runs in every state."""

import os
import time
from pathlib import Path

import psutil
import pytest
import yaml

import ortho_lora.launching.queue as queue
from app.launching import form, launcher, own_data
from app.launching.presets import PRESETS
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import Ticket
from ortho_lora.training.config import Config, load_config
from ortho_lora.training.estimate import Estimate

ROOT = Path(__file__).resolve().parents[2]
GONE = Ticket(pid=2**22 - 1, process_start_time=1.0)
CSV = "review,verdict\n" + "".join(
    f"film number {n} was {'good' if n % 3 else 'bad'},{n % 3 > 0}\n" for n in range(120)
)


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.warning, *test.caption, *test.success]
    return "\n".join(element.value for element in elements).replace("\\", "")


def button(test, label):
    return next(button for button in test.button if button.label == label)


def give_ticket(runs_dir, run_id, ticket, output="", **settings):
    with queue.lock(runs_dir):
        queue.write_ticket(runs_dir, run_id, ticket)
    (queue.folder(runs_dir) / f"{run_id}.log").write_text(output)
    document = load_config(overrides=settings).model_dump(mode="json")
    (queue.folder(runs_dir) / f"{run_id}.yaml").write_text(yaml.safe_dump(document))


def mine(**changes):
    """A ticket of this process, which lives."""
    return Ticket.of(psutil.Process()).model_copy(update=changes)


@pytest.fixture
def started(monkeypatch):
    """What was started, in place of starting it."""
    calls = []
    monkeypatch.setattr("app.launching.launcher.start", lambda *arguments: calls.append(arguments))
    return calls


def test_every_setting_has_a_place_in_the_form():
    assert sorted([*form.FIELDS, "tasks"]) == sorted(Config.model_fields)


def test_demo_preset_is_the_example():
    assert load_config(overrides=PRESETS["Quick demo"].settings) == load_config(ROOT / "examples" / "demo.yaml")


def test_form_starts_a_run_with_what_was_entered(runs_dir, open_page, started):
    test = open_page("launch")
    test.multiselect(key="launch-tasks").set_value(["movies", "spam"]).run()
    test.selectbox(key="launch-twin").set_value("movies").run()
    button(test, "Add the twin").click().run()
    test.number_input(key="launch-weight-spam").set_value(2.0)
    test.selectbox(key="launch-method").set_value("pcgrad")
    test.number_input(key="launch-steps").set_value(20)
    test.text_input(key="launch-learning_rate").set_value("1e-4")
    test.text_input(key="launch-target_modules").set_value("query, key")
    test.text_input(key="launch-name").set_value("mine").run()
    button(test, "Start training").click().run()
    assert not test.exception
    assert "**mine** is launched" in test.toast[0].value
    (config, directory, run_id) = started[0]
    assert [(task.name, task.loss_weight) for task in config.tasks] == [
        ("movies", 1), ("spam", 2), ("movies-flip0.7", 1),
    ]  # fmt: skip
    assert (config.method, config.steps, config.learning_rate, config.target_modules) == (
        "pcgrad", 20, 1e-4, ("query", "key"),
    )  # fmt: skip
    assert (directory, run_id) == (runs_dir, "mine")
    assert test.text_input(key="launch-name").value == ""


def test_groups_are_entered_as_advice_tells_them(runs_dir, open_page, started):
    test = open_page("launch")
    test.multiselect(key="launch-tasks").set_value(["movies", "spam", "trec"]).run()
    test.text_input(key="launch-groups").set_value("spam + trec | movies").run()
    button(test, "Start training").click().run()
    assert not test.exception
    config = started[0][0]
    assert config.groups == (("movies",), ("spam", "trec"))
    test.text_input(key="launch-groups").set_value("spam + trec").run()
    assert "task 'movies' is in no group" in words(test)
    assert load_config(overrides=yaml.safe_load(launcher.as_yaml(config))) == config


def test_untouched_preset_starts_what_it_says(open_page, started):
    test = open_page("launch")
    test.button_group(key="launch-preset").set_value("Paper").run()
    assert "Changed from" not in words(test)
    button(test, "Start training").click().run()
    assert started[0][0] == load_config(overrides=PRESETS["Paper"].settings)
    assert started[0][2].endswith("-ortho-lora")


def test_changes_are_named_and_put_back(open_page):
    test = open_page("launch")
    test.number_input(key="launch-steps").set_value(20)
    test.text_input(key="launch-clip").set_value("1").run()
    assert "Steps: 40 → 20" in words(test)
    assert "Clip: null → 1" in words(test)
    button(test, "Put back").click().run()
    assert test.number_input(key="launch-steps").value == 40
    assert "Changed from" not in words(test)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("launch-learning_rate", "-1", "learning_rate: -1 given; input should be greater than 0"),
        ("launch-learning_rate", "fast", "learning_rate: 'fast' given"),
        ("launch-learning_rate", "[1", "learning_rate: '[1' given"),
        ("launch-warmup_steps", 40, "warmup_steps is 40: expected fewer than the 40 steps"),
        ("launch-tasks", ["trek"], "'trek' given, expected one of trec, spam, tweets, movies, news; nearest: 'trec'"),
        ("launch-tasks", ["movies@2"], "less than or equal to 1"),
        ("launch-tasks", ["movies@much"], "rho: 'much' given"),
        ("launch-tasks", [], "No task is chosen"),
    ],
)
def test_bad_form_is_refused_in_words_and_cannot_be_sent(key, value, sentence, runs_dir, open_page):
    test = open_page("launch")
    kind = {int: test.number_input, str: test.text_input, list: test.multiselect}[type(value)]
    kind(key=key).set_value(value).run()
    assert sentence in words(test)
    assert button(test, "Start training").disabled
    assert not runs_dir.exists()


def test_bad_name_is_refused_in_words(runs_dir, open_page):
    test = open_page("launch")
    test.text_input(key="launch-name").set_value("../up").run()
    button(test, "Start training").click().run()
    assert "expected 1 to 100 letters" in words(test)
    assert not runs_dir.exists()


def test_yaml_and_command_do_the_same(open_page):
    test = open_page("launch")
    test.text_input(key="launch-name").set_value("mine").run()
    command, document = (code.value for code in test.code)
    assert "ortho_lora train --config mine.yaml" in command
    assert command.endswith("--name mine")
    assert load_config(overrides=yaml.safe_load(document)) == load_config(ROOT / "examples" / "demo.yaml")


def test_run_again_fills_the_form_with_its_settings(add_run, open_page, started):
    settings = {"tasks": ["movies", "movies@0.3+head"], "steps": 7, "eval_examples": None, "rule": "gradvac"}
    config = load_config(overrides=settings)
    add_run("former", config=config.model_dump(mode="json"))
    test = open_page("launch")
    button(test, "Run again with changes").click().run()
    assert not test.exception
    assert test.selectbox(key="launch-from").value == "former"
    button(test, "Start training").click().run()
    assert started[0][0] == config


def test_address_comes_with_the_form_filled_once(add_run, open_page):
    add_run("mine", config=load_config(overrides={"tasks": ["trec"], "steps": 7}).model_dump(mode="json"))
    test = open_page("launch", again="mine")
    assert test.number_input(key="launch-steps").value == 7
    assert "again" not in test.query_params
    test.number_input(key="launch-steps").set_value(8).run()
    assert test.number_input(key="launch-steps").value == 8
    test = open_page("launch", again="../elsewhere")
    assert "expected that of a directory among the runs" in test.toast[0].value.replace("\\", "")
    assert not test.exception


def test_queued_runs_have_a_place_and_can_be_taken_out(runs_dir, open_page, monkeypatch):
    stopped = []
    monkeypatch.setattr("app.launching.launcher.stop", lambda directory, run_id: stopped.append(run_id))
    give_ticket(runs_dir, "trains", mine(started=True))
    give_ticket(runs_dir, "waits", mine())
    give_ticket(runs_dir, "waits-too", mine())
    test = open_page("launch")
    assert not test.exception
    assert "**trains** · ▶ starting: loading data and model" in words(test)
    assert "**waits** · ◌ queued, the next one" in words(test)
    assert "**waits-too** · ◌ queued, at place 2" in words(test)
    assert "It will wait: 3 under way or waiting, and 1 may train at once." in words(test)
    test.button(key="stop-waits-too").click().run()
    assert stopped == ["waits-too"]


def test_limit_is_kept_on_disk(runs_dir, open_page):
    give_ticket(runs_dir, "waits", mine())
    test = open_page("launch")
    assert test.number_input(key="launch-limit").value == 1
    test.number_input(key="launch-limit").set_value(3).run()
    assert queue.read_limit(runs_dir) == 3
    assert open_page("launch").number_input(key="launch-limit").value == 3


def test_failed_start_says_why_and_can_be_edited_or_dismissed(runs_dir, open_page):
    give_ticket(runs_dir, "bad", GONE.model_copy(update={"started": True}), "error: no such file", steps=9)
    test = open_page("launch")
    assert "**bad** did not start" in words(test)
    assert "error: no such file" in [code.value for code in test.code]
    button(test, "Run again with changes").click().run()
    assert test.number_input(key="launch-steps").value == 9
    button(test, "Dismiss").click().run()
    assert "did not start" not in words(test)
    assert "did not start" not in words(open_page("launch"))


def test_run_that_waited_and_is_gone_is_lost(runs_dir, open_page):
    give_ticket(runs_dir, "waited", GONE)
    assert "**waited** lost" in words(open_page("launch"))


def test_running_run_has_progress_figures_and_stop(add_run, open_page):
    add_run("only", "running", {"step": 5, "total": 20, "eta_seconds": 700.0, "losses": {"trec": 0.5}})
    test = open_page("launch")
    assert "running, training, step 5 of 20, about 12 min left" in words(test) or "step 5 of 20, about 12 min" in words(
        test
    )
    assert [(metric.label, metric.value) for metric in test.metric] == [("trec loss", "0.500")]
    assert len(test.get("plotly_chart")) == 2
    assert not button(test, "Stop").disabled


def test_stop_that_was_asked_is_seen_in_a_new_session(add_run, runs_dir, open_page):
    add_run("only", "running", {"step": 5, "total": 20, "eta_seconds": 7.0})
    give_ticket(runs_dir, "only", mine(started=True, stop_asked=True))
    test = open_page("launch")
    assert "◼ stopping, step 5 of 20" in words(test)
    assert button(test, "Stop").disabled


def test_stalled_run_is_told(add_run, open_page):
    add_run("only", "running", {"step": 5, "total": 20, "heartbeat": time.time() - 1000})
    test = open_page("launch")
    assert "◍ stalled" in words(test)
    assert "no sign" in words(test)


@pytest.mark.parametrize(
    ("state", "process"),
    [("stopped", {}), ("failed", {"message": "a **loss** is not finite"}), ("running", vars(GONE) | {"step": 5})],
)
def test_interrupted_run_can_be_resumed_where_it_has_a_checkpoint(state, process, add_run, open_page, monkeypatch):
    fields = {key: value for key, value in process.items() if key not in ("started", "stop_asked")}
    run = add_run("only", state, fields)
    assert "Resume" not in [button.label for button in open_page("launch").button]
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "state.pt").touch()
    resumed = []
    monkeypatch.setattr("app.launching.launcher.resume", resumed.append)
    test = open_page("launch")
    assert "**loss**" not in "\n".join(caption.value for caption in test.caption)
    button(test, "Resume").click().run()
    assert resumed == [run]


def test_finished_run_shows_its_metrics_and_becomes_the_one_shown(add_run, open_page):
    add_run("older", created=1.0)
    add_run("newer", created=2.0)
    test = open_page("launch")
    assert "✓ **older** finished: movies 0.50" in words(test)
    test.button(key="show-older").click().run()
    assert test.selectbox(key="run").value == "older"


@pytest.fixture
def uploaded(runs_dir):
    """A file that was uploaded before."""
    (runs_dir / ".uploads").mkdir(parents=True)
    path = runs_dir / ".uploads" / "films.csv"
    path.write_text(CSV)
    return path


def test_uploaded_file_is_still_there_with_preview_and_counts_and_becomes_a_task(uploaded, open_page, started):
    test = open_page("launch")
    assert test.selectbox(key="launch-file").value == "films.csv"
    assert list(test.dataframe[0].value.columns) == ["review", "verdict"]
    assert test.dataframe[1].value["label"].tolist() == ["True", "False"]
    assert "120 rows, 2 columns" in words(test)
    test.button_group(key="launch-preset").set_value("Own data").run()
    button(test, "Add as a task").click().run()
    assert test.multiselect(key="launch-tasks").value == ["films"]
    button(test, "Start training").click().run()
    (task,) = started[0][0].tasks
    assert (task.name, task.path, task.text, task.label) == ("films", uploaded.resolve(), "review", "verdict")


def test_file_on_this_machine_is_read_where_it_lies(tmp_path, open_page):
    (tmp_path / "films.csv").write_text(CSV)
    test = open_page("launch")
    test.text_input(key="launch-file-path").set_value(str(tmp_path / "films.csv")).run()
    assert "120 rows" in words(test)
    test.text_input(key="launch-file-path").set_value(str(tmp_path / "absent.csv")).run()
    assert not test.exception
    assert "there is no file" in words(test)


def test_rows_are_left_out_in_the_form(uploaded, open_page, started):
    uploaded.write_text(CSV + "film without a verdict,-\n,True\n")
    test = open_page("launch")
    assert "or leave such rows out with skip_empty: true" in words(test)
    test.checkbox(key="launch-skip-films.csv").check().run()
    test.multiselect(key="launch-drop-films.csv-verdict").set_value(["-"]).run()
    assert "Left out: 1 label -, 1 empty of train." in words(test)
    button(test, "Add as a task").click().run()
    test.multiselect(key="launch-tasks").set_value(["films"]).run()
    button(test, "Start training").click().run()
    (task,) = started[0][0].tasks
    assert (task.skip_empty, task.drop_labels) == (True, ("-",))


def test_bad_columns_are_refused_in_words(uploaded, open_page):
    uploaded.write_text("review,verdict\nfilm,yes\nbook,yes\n")
    test = open_page("launch")
    assert "has the label 'yes' in every row: expected at least two classes" in words(test)
    assert "Add as a task" not in [button.label for button in test.button]


def test_columns_are_guessed_by_name_and_by_what_is_in_them():
    import pandas as pd

    assert own_data._guess(pd.DataFrame({"label": ["a"], "text": ["b"], "z": ["long long"]})) == ("text", "label")
    rows = pd.DataFrame(
        {"id": ["1", "2", "3"], "said": ["a longer text", "another one", "a third"], "who": ["x", "x", "y"]}
    )
    assert own_data._guess(rows) == ("said", "who")


def test_estimate_is_of_the_form_as_it_is(open_page, monkeypatch):
    monkeypatch.setattr("app.launching.timing.estimate", lambda config: Estimate(loading=10, step=2, evaluation=5))
    test = open_page("launch")
    button(test, "Estimate the time").click().run()
    assert "About 3 min" in words(test)  # 10 + (40 + 32 + 16) x 2 + 3 x 5
    test.number_input(key="launch-steps").set_value(1000).run()
    assert "About 39 min" in words(test)  # 10 + (1000 + 32 + 16) x 2 + 51 x 5
    test.number_input(key="launch-batch_size").set_value(64).run()
    assert "changed since the time was estimated" in words(test)


def test_estimate_that_fails_or_lasts_is_told_in_words(tmp_path):
    from app.launching import timing

    absent = {"name": "absent", "path": str(tmp_path / "absent.csv"), "text": "a", "label": "b"}
    with pytest.raises(OrthoLoraError, match="no estimate: there is no file"):
        timing.estimate(load_config(overrides={"tasks": [absent]}))
    with pytest.raises(OrthoLoraError, match="no estimate within 0 s"):
        timing.estimate(load_config(), longest=0.1)


def test_markup_in_names_of_files_and_labels_is_not_executed(runs_dir, open_page):
    (runs_dir / ".uploads").mkdir(parents=True)
    path = runs_dir / ".uploads" / "films.csv"
    path.write_text("text,label\n" + "a film,<script>alert(1)</script>\n" * 3 + "b film,**bold**\n" * 2)
    os.utime(path)
    shown = "\n".join(element.value for element in [*open_page("launch").markdown, *open_page("launch").warning])
    assert "<script>" not in shown
    assert "**bold**" not in shown
