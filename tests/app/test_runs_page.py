"""The list of runs: find, describe, archive, compare and delete. What is checked in the table: tests/browser."""

import pytest

from analysis.library.notes import make_notes, read_notes, write_notes
from app.launching import launcher
from app.launching.launcher import Launch
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import CHECKPOINT, ProbeInfo
from ortho_lora.training.config import load_config


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.warning, *test.caption, *test.subheader]
    return "\n".join(element.value for element in elements).replace("\\", "")


def listed(test):
    return test.dataframe[0].value["run"].tolist()


def press(test, label):
    next(button for button in test.button if button.label == label).click()
    test.run()
    assert not test.exception
    return test


@pytest.fixture
def three(add_run):
    add_run("alpha", created=3.0)
    add_run("beta", "failed", {"message": "no memory"}, created=2.0, method="joint", rule="sum", config={"rank": 4})
    write_notes(add_run("gamma", created=1.0), make_notes(title="Third", tags=["paper"], note="for the talk"))


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["alpha", "beta", "gamma"]),
        ({"search": "talk"}, ["gamma"]),
        ({"search": "JOINT"}, ["beta"]),
        ({"states": "failed"}, ["beta"]),
        ({"methods": "ortho-lora"}, ["alpha", "gamma"]),
        ({"tags": "paper"}, ["gamma"]),
        ({"tasks": "trec", "search": "alp"}, ["alpha"]),
    ],
)
def test_an_address_searches_and_filters(query, names, three, open_page):
    assert listed(open_page("runs", **query)) == names


def test_a_search_that_finds_nothing_says_so(three, open_page):
    test = open_page("runs", search="nowhere")
    assert "No run fits" in words(test)
    assert not test.exception
    test.text_input(key="search").set_value("").run()
    assert listed(test) == ["alpha", "beta", "gamma"]


def test_filters_follow_the_fields(three, open_page):
    test = open_page("runs")
    test.multiselect(key="methods").select("joint").run()
    assert listed(test) == ["beta"]
    test.multiselect(key="methods").unselect("joint").run()
    test.multiselect(key="tags").select("paper").run()
    assert listed(test) == ["gamma"]


def test_failure_is_told_in_the_list_and_of_the_run(three, open_page):
    test = open_page("runs", run="beta")
    assert test.dataframe[0].value["message"].tolist() == ["", "no memory", ""]
    assert "It failed: no memory" in words(test)


def test_notes_are_saved_and_shown(three, runs_dir, open_page):
    test = open_page("runs", run="alpha")
    test.text_input(key="title-alpha").set_value("  <b>First</b>  one ")
    test.multiselect(key="tags-alpha").set_value(["paper"])
    test.text_area(key="note-alpha").set_value("**bold** $x$")
    press(test, "Save")
    notes = read_notes(runs_dir / "alpha")
    assert (notes.title, notes.tags, notes.note) == ("<b>First</b> one", ("paper",), "**bold** $x$")
    row = test.dataframe[0].value.iloc[0]
    assert (row["title"], list(row["tags"]), row["note"]) == ("<b>First</b> one", ["paper"], "**bold** $x$")
    assert "<b>" not in "".join(element.value for element in [*test.markdown, *test.subheader])
    assert listed(open_page("runs", tags="paper")) == ["alpha", "gamma"]


def test_notes_that_cannot_be_saved_are_told(three, runs_dir, open_page):
    test = open_page("runs", run="alpha")
    (runs_dir / "alpha" / "notes.json").mkdir()
    test.text_input(key="title-alpha").set_value("x")
    press(test, "Save")
    assert "cannot be written" in words(test)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("Oldest first", ["gamma", "beta", "alpha"]),
        ("By method", ["beta", "alpha", "gamma"]),
        ("By name", ["alpha", "beta", "gamma"]),
    ],
)
def test_order_comes_from_the_address_and_checks_the_right_rows(order, names, three, open_page):
    test = open_page("runs", order=order, run="alpha", compare="gamma")
    assert listed(test) == names
    rows = test.session_state["runs-table"]["selection"]["rows"]
    assert {names[row] for row in rows} == {"alpha", "gamma"}


def labels(test):
    return [button.label for button in test.button]


def test_a_run_is_stopped_while_it_trains_and_not_run_again(add_run, open_page, monkeypatch):
    asked = []
    monkeypatch.setattr("app.launching.launcher.stop", lambda runs_dir, run_id: asked.append(run_id))
    add_run("only", "running", {"step": 5})
    test = press(open_page("runs"), "Stop")
    assert asked == ["only"]
    assert "Resume" not in labels(test)


def test_a_stopped_run_with_a_checkpoint_is_gone_on_with(add_run, open_page, monkeypatch):
    resumed = []
    monkeypatch.setattr("app.launching.launcher.resume", resumed.append)
    stopped = add_run("only", "stopped")
    assert "Resume" not in labels(open_page("runs"))
    (stopped / CHECKPOINT).parent.mkdir(exist_ok=True)
    (stopped / CHECKPOINT).touch()
    test = press(open_page("runs"), "Resume")
    assert resumed == [stopped]
    assert "Stop" not in labels(test)


def test_a_resume_that_failed_tells_what_it_said(add_run, runs_dir, open_page, monkeypatch):
    add_run("only", "stopped")
    launch = Launch("only", "failed", None, resumes=True, output="error: no such model")
    monkeypatch.setattr("app.launching.launcher.launches", lambda runs_dir: [launch])
    test = open_page("runs")
    assert "did not go on" in words(test)
    assert test.code[0].value == "error: no such model"


def test_a_run_with_a_checkpoint_is_probed_there(add_run, runs_dir, open_page, monkeypatch):
    started = []
    monkeypatch.setattr("app.launching.launcher._start", lambda *arguments: started.append(arguments))
    settings = load_config(overrides={"tasks": ["trec", "movies"]}).model_dump(mode="json")
    for name, fields in (("shared", {}), ("alone", {"method": "single"})):
        (add_run(name, config=settings, **fields) / CHECKPOINT).parent.mkdir(exist_ok=True)
        (runs_dir / name / CHECKPOINT).touch()
    assert "Probe its checkpoint" not in labels(open_page("runs", run="alone"))
    (runs_dir / "shared-probe-1").mkdir()
    press(open_page("runs", run="shared"), "Probe its checkpoint")
    ((options, where, name, _),) = started
    assert (where, name) == (runs_dir, "shared-probe-2")
    assert options[:6] == ["probe", str(runs_dir / "shared"), "--half-width", "0.15", "--batches", "256"]
    press(open_page("runs", run="shared"), "Look ahead from it")
    options, _, name, _ = started[1]
    assert options == ["lookahead", str(runs_dir / "shared"), "--runs-dir", str(runs_dir), "--name", name]
    assert name == "shared-lookahead-1"
    assert all(launcher.measures(arguments[2], "shared") for arguments in started)
    assert not launcher.measures("shared-lookahead-1", "other")
    (runs_dir / "shared" / CHECKPOINT).unlink()
    with pytest.raises(OrthoLoraError, match="only a run that has a checkpoint"):
        launcher.probe(runs_dir / "shared")


def test_probes_of_a_run_are_followed(add_run, open_page, monkeypatch):
    launch = Launch("only-probe-2", "queued", 1, resumes=False, output="")
    monkeypatch.setattr("app.launching.launcher.launches", lambda runs_dir: [launch])
    add_run("only", created=2.0)
    add_run("only-probe-1", "running", {"step": 8, "total": 64}, probe=ProbeInfo(run="only", step=40, seed=0))
    test = open_page("runs", run="only")
    assert "only-probe-1 · ▶ running, " in words(test).replace("**", "")
    assert "only-probe-2 · ◌ queued, the next one" in words(test).replace("**", "")
    assert labels(test).count("Stop") == 1


def test_archived_runs_leave_the_sidebar_unless_they_are_chosen(three, runs_dir, open_page):
    for name in ("beta", "gamma"):
        write_notes(runs_dir / name, make_notes(archived=True))
    assert open_page("runs").selectbox(key="run").options == ["alpha"]
    test = open_page("runs", run="gamma", compare="beta")
    assert test.selectbox(key="run").options == ["alpha", "beta", "gamma"]
    assert test.multiselect(key="compare").value == ["beta"]
    write_notes(runs_dir / "alpha", make_notes(archived=True))
    assert open_page("runs").selectbox(key="run").value == "alpha"


def test_archived_runs_are_listed_apart(three, runs_dir, open_page):
    test = press(open_page("runs", run="gamma"), "Archive")
    assert listed(test) == ["alpha", "beta"]
    assert read_notes(runs_dir / "gamma") == make_notes(
        title="Third", tags=["paper"], note="for the talk", archived=True
    )
    test.toggle(key="archived").set_value(True).run()
    assert listed(test) == ["gamma"]
    press(test, "Take back")
    assert "No run archived fits" in words(test)


def test_several_are_compared_by_what_differs(three, open_page):
    test = open_page("runs", run="alpha", compare="beta")
    assert "2 runs compared" in words(test)
    frames = [frame.value for frame in test.dataframe]
    differing = frames[1].set_index("setting")
    assert differing.loc["method"].tolist() == ["ortho-lora", "joint"]
    assert differing.loc["rule"].tolist() == ["pcgrad", "sum"]
    assert differing.loc["rank", "beta"] == "4"
    assert "tasks" not in differing.index
    assert frames[2]["alpha"].tolist() == [0.5, 0.5, 0.5]
    test.multiselect(key="compare").set_value([]).run()
    assert "runs compared" not in words(test)


def test_runs_that_are_alike_differ_in_nothing(three, open_page):
    assert "None: they differ" in words(open_page("runs", run="alpha", compare="gamma"))


def test_deletion_asks_first(three, runs_dir, open_page):
    """What follows in the dialog, of which AppTest knows nothing, is in tests/browser."""
    test = press(open_page("runs", run="alpha"), "Delete")
    assert test.text_input(key="delete-typed").label == "Type alpha to delete"
    assert test.button(key="delete-now").disabled
    assert (runs_dir / "alpha" / "run.json").exists()


def test_active_run_offers_no_deletion(add_run, open_page):
    add_run("only", "running", {"step": 5})
    test = open_page("runs")
    assert test.button(key="delete").disabled


def test_damaged_notes_are_told_and_can_be_replaced(three, runs_dir, open_page):
    (runs_dir / "gamma" / "notes.json").write_text("{")
    test = open_page("runs", run="gamma")
    assert listed(test) == ["alpha", "beta", "gamma"]
    assert "cannot be read as notes" in words(test)
    test.text_input(key="title-gamma").set_value("again")
    press(test, "Save")
    assert read_notes(runs_dir / "gamma").title == "again"
    assert "cannot be read as notes" not in words(test)
