"""The records that come with this package: whole, small, of nobody's machine, shown by every page, and left alone."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis.library.runs import list_runs
from analysis.library.samples import SAMPLES, is_sample
from analysis.study.results import find_studies, read_results
from app.shared import places
from app.views import lesson_runs
from ortho_lora.record.manifest import read_manifest
from ortho_lora.record.schema import read_run, read_status

PAGES = [
    "start", "learn", "launch", "runs",
    "conflicts", "transfer", "layers", "projection", "metrics", "diagnosis", "study",
]  # fmt: skip
A_PATH = re.compile(rb"(?<![\w.:/])/(?:[\w.@+-]+/)+[\w.@+-]+")
OF_A_MACHINE = re.compile(rb"/(tmp|home|root|usr|opt|Users|work)/")


@pytest.fixture
def shipped(runs_dir, monkeypatch):
    """The shipped records are listed, beside an empty runs directory."""
    monkeypatch.delenv(places.SAMPLES_VARIABLE)


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.warning, *test.caption, *test.success]
    return "\n".join(element.value for element in elements).replace("\\", "")


def files():
    return sorted(path for path in SAMPLES.rglob("*") if path.is_file())


def test_there_are_the_demo_the_lesson_and_a_study():
    runs = list_runs(SAMPLES)
    assert runs[0].run_id == "sample-demo"  # the newest, which pages open with
    assert {run.run_id for run in runs} == {"sample-demo", *lesson_runs.TASKS}
    ((name, directory),) = find_studies(SAMPLES).items()
    study = read_results(directory)
    assert (name, study.study.phase, len(study.runs)) == ("sample-study", "done", 6)
    every = [*runs, *study.runs.values()]
    assert {(run.state, run.problem) for run in every} == {("finished", None)}
    assert all(read_run(run.path).modules for run in every)


def test_they_are_small():
    assert sum(path.stat().st_size for path in files()) <= 5e6


def test_every_row_that_the_manifests_name_is_there_and_nothing_else():
    named = set()
    for run in [path.parent for path in files() if path.name == "run.json"]:
        for table, parts in read_manifest(run).parts.items():
            for part in parts:
                named.add(run / table / part.name)
                assert pq.read_metadata(run / table / part.name).num_rows == part.rows
    others = {path.name for path in files() if path not in named}
    assert others == {"run.json", "status.json", "manifest.json", "notes.json", "study.json"}


def test_they_tell_of_no_machine_and_nobody():
    for path in files():
        content = path.read_bytes()
        if path.suffix == ".json":
            assert not A_PATH.search(content), path
        assert not OF_A_MACHINE.search(content), path
    for run in [path.parent for path in files() if path.name == "run.json"]:
        status, info = read_status(run), read_run(run)
        assert (status.pid, status.host, status.ticks) == (0, None, None)
        assert info.command[0] == "ortho-lora"
    assert A_PATH.search(b'"/etc/machine-id"')  # that the search can find one
    assert not A_PATH.search(b'"rollup/pairs_by_step", "examples/demo.yaml"')


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_them_before_anything_is_trained(page, shipped, runs_dir, open_page):
    before = {path: path.stat().st_mtime_ns for path in SAMPLES.rglob("*")}
    test = open_page(page)
    assert not test.exception
    assert page == "diagnosis" or not [*test.error, *test.warning]  # there an error is a conflict
    assert test.selectbox(key="run").value == "sample-demo"
    if page not in ("start", "learn", "launch", "runs", "study"):
        assert test.get("plotly_chart")
    assert before == {path: path.stat().st_mtime_ns for path in SAMPLES.rglob("*")}
    assert not runs_dir.exists()


def test_the_lesson_answers_without_training(shipped, open_page):
    test = open_page("learn")
    assert "comes with this program" in words(test)
    before = len(test.get("plotly_chart"))
    for key, answer in {"lesson-dial": "near 0", "lesson-own-head": "agree", "lesson-unrelated": "about 50%"}.items():
        question = test.radio(key=key)
        question.set_value(next(option for option in question.options if option.startswith(answer)))
    test.run()
    assert not test.exception
    assert words(test).count("Right: ") == 3
    assert len(test.get("plotly_chart")) == before + 4


def test_runs_of_ones_own_come_first_and_hide_those_of_their_name(shipped, add_run, open_page):
    add_run("mine", created=2e9)
    add_run("sample-demo", created=1e9)
    found = places.runs()
    assert [run.run_id for run in found[:2]] == ["mine", "sample-demo"]
    assert not any(is_sample(run.path) for run in found[:2])
    assert [run.run_id for run in found].count("sample-demo") == 1
    assert all(is_sample(run.path) for run in found[2:])


def test_pages_open_with_a_shipped_run_until_one_of_ones_own_has_ended(shipped, add_run, open_page):
    add_run("mine", "running")
    assert open_page("runs").selectbox(key="run").value == "sample-demo"
    add_run("other", "stopped", created=1.0)
    assert open_page("runs").selectbox(key="run").value == "mine"


def test_a_lesson_run_of_ones_own_stands_in_place_of_the_shipped_one(shipped, add_run, runs_dir):
    add_run("lesson-dial-0", "stopped")
    assert is_sample(lesson_runs.finished(runs_dir)["lesson-dial-0"].path)
    add_run("lesson-dial-0-2")
    assert lesson_runs.finished(runs_dir)["lesson-dial-0"].run_id == "lesson-dial-0-2"


def test_a_shipped_run_can_be_run_again_and_not_written_to(shipped, open_page):
    test = open_page("runs", run="sample-demo")
    assert "comes with this program" in words(test)
    assert not {"Save", "Archive", "Delete", "Resume", "Probe its checkpoint"} & {one.label for one in test.button}
    assert list(test.dataframe[0].value["tags"].iloc[0]) == ["shipped"]
    test = open_page("launch", again="sample-demo")
    assert not test.exception
    assert test.session_state["launch-source"] == "sample-demo"
    assert test.session_state["launch-draft"]["steps"] == read_run(SAMPLES / "sample-demo").config["steps"]


def test_what_is_advised_of_a_shipped_run_is_tried_among_ones_own(shipped, runs_dir, open_page):
    (command,) = [code.value for code in open_page("transfer").code if "study" in code.value]
    assert command.endswith(f"--runs-dir {runs_dir}")


def test_without_them_nothing_is_listed(runs_dir, open_page):
    assert json.dumps(places.studies()) == "{}"
    assert places.runs() == []
    assert Path(places.home("sample-demo")) == runs_dir
