"""`--read-only`: whoever looks may only look, at the given runs, and learns nothing of the machine."""

import os
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

from analysis.library.samples import SAMPLES, is_sample
from app import __main__ as command
from app.launching import launcher
from app.shared import places
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["start", "learn", "runs", "conflicts", "transfer", "layers", "projection", "metrics", "diagnosis", "study"]
WRITING = {
    "Save", "Archive", "Delete", "Resume", "Stop", "Probe its checkpoint", "Look ahead from it",
    "Try it: train a study", "Make the report",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _public(runs_dir, monkeypatch):
    monkeypatch.setenv(places.READ_ONLY_VARIABLE, "1")
    monkeypatch.delenv(places.SAMPLES_VARIABLE)


def shown(test):
    """All that a page says, its tables with it."""
    kinds = ["title", "header", "subheader", "markdown", "info", "error", "warning", "caption", "success", "code"]
    texts = [str(element.value) for kind in kinds for element in test.get(kind)]
    return "\n".join([*texts, *(table.value.to_csv() for table in test.dataframe)]).replace("\\", "")


@pytest.fixture
def given(add_run, runs_dir):
    """Runs that tell of paths wherever one can: one that failed, one that is torn, one with settings of files."""
    secret = runs_dir / "secret"
    data = {"tasks": [{"name": "movies", "path": f"{secret}/movies.csv"}], "model": f"{secret}/model"}
    for name, created in (("good", 3.0), ("other", 2.0)):
        run = add_run(name, created=created, snapshots=(0, 12), config=data | {"model": f"{secret}/{name}"})
        (run / CHECKPOINT).parent.mkdir(exist_ok=True)
        (run / CHECKPOINT).touch()
    add_run("failed", "failed", {"message": f"cannot read {secret}/movies.csv: no such file"}, created=1.0)
    (add_run("torn", created=0.0) / "run.json").write_text("{")
    next((runs_dir / "other").glob("pairs/*.parquet")).write_bytes(b"torn")
    return runs_dir


@pytest.mark.parametrize(
    ("page", "run"), [*((page, "good") for page in PAGES), ("conflicts", "torn"), ("runs", "failed"), ("runs", "other")]
)
def test_no_page_writes_or_tells_a_path(page, run, given, open_page):
    before = {path: path.stat().st_mtime_ns for path in given.rglob("*")}
    test = open_page(page, run=run)
    assert not test.exception
    assert not WRITING & {button.label for button in test.button}
    assert not any("Train" in button.label for button in test.button)
    assert not test.get("file_uploader")
    assert str(given) not in shown(test)
    assert str(given.parent) not in shown(test)
    assert before == {path: path.stat().st_mtime_ns for path in given.rglob("*")}


def test_settings_that_differ_are_told_without_their_paths(given, open_page):
    told = shown(open_page("runs", run="good", compare="other"))
    assert "…/good" in told
    assert "secret" not in told


def test_nothing_is_launched_by_any_other_way(given):
    with pytest.raises(OrthoLoraError, match="nothing is launched from it"):
        launcher.try_advice(given / "good")
    assert not (given / ".launch").exists()


def test_the_given_runs_alone_are_listed(given):
    assert {run.run_id for run in places.runs()} == {"good", "other", "failed", "torn"}
    assert places.studies() == {}
    assert places.home("sample-demo") == given


def test_where_none_are_given_the_shipped_ones_are(runs_dir):
    found = places.runs()
    assert found
    assert all(is_sample(run.path) for run in found)
    assert set(places.studies().values()) == {SAMPLES / "sample-study"}
    assert not runs_dir.exists()


def test_the_router_has_no_page_that_launches(given):
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=PATIENCE).run()
    assert not test.exception
    assert "launch" not in test.session_state["pages"]
    assert "runs" in test.session_state["pages"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/lab/runs/demo/run.json: cannot be read", "…/run.json: cannot be read"),
        ("set 'a/b' at (/mnt/x/y z)", "set 'a/b' at (…/y z)"),
        ("in /mnt/x/y, and runs/demo/run.json", "in …/y, and runs/demo/run.json"),
        ("a rate of 1/2/3 and https://example.org/a/b", "a rate of 1/2/3 and https://example.org/a/b"),
    ],
)
def test_of_a_path_the_last_name_is_told(text, told, monkeypatch):
    assert places.without_paths(text) == told
    monkeypatch.setenv("ORTHO_LORA_RUNS_DIR", "/srv/my lab/runs")
    assert places.without_paths("/srv/my lab/runs/demo/run.json: torn") == "…/run.json: torn"
    monkeypatch.delenv(places.READ_ONLY_VARIABLE)
    assert places.without_paths(text) == text


def test_the_command_turns_it_on_and_uploads_off(monkeypatch):
    asked = []
    monkeypatch.setattr("streamlit.web.cli.main", lambda arguments, prog_name: asked.append(arguments))
    monkeypatch.delenv(places.READ_ONLY_VARIABLE)
    command.serve(["--read-only", "--server.port", "9000"])
    assert asked[0][2:] == [
        "--server.port", "9000", "--server.maxUploadSize", "0", "--client.showErrorDetails", "none",
    ]  # fmt: skip
    assert os.environ[places.READ_ONLY_VARIABLE] == "1"
    with pytest.raises(OrthoLoraError, match="--demo trains, and --read-only forbids it"):
        command.serve(["--read-only", "--demo"])
