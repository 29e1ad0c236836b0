"""Whatever lies among the runs: it is named, costs its own rows, and nothing else."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torture
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner
from waiting import PATIENCE

from analysis.__main__ import app
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.conflict.replay import replay
from analysis.diagnosis.diagnose import diagnose
from analysis.figures import standalone
from analysis.library.runs import list_runs, open_run, runs_table, survey
from analysis.library.search import disk_bytes
from analysis.outcomes.beside import board_of, outcomes
from analysis.output.data import DATA, frame_of
from analysis.reading.damage import counted
from analysis.reading.database import ask
from analysis.report.page import render
from analysis.study.results import find_studies
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.manifest import read_manifest
from ortho_lora.record.parts import part_name, write_part
from ortho_lora.record.rows import decode
from ortho_lora.record.store import Batch, Store
from ortho_lora.record.tables import TABLES

SECONDS = PATIENCE
ALL = Selection()


@pytest.fixture(autouse=True)
def held_up() -> Iterator[None]:
    """Permissions hold, also for root; and who waits at a pipe is told so."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("somebody waits for ever")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    with torture.permissions_hold():
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture(scope="module", autouse=True)
def light_alone() -> Iterator[None]:
    """Figures are drawn once; how they look on a dark page is no matter of what they are of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "document", lambda draw: {"figure": json.loads(draw(False).to_json()), "dark": []})
        yield


@pytest.fixture(scope="module")
def good(records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torture.write_good(records, tmp_path_factory.mktemp("good") / "good", method="joint", rule="sum")


@pytest.fixture
def runs_dir(good: Path, tmp_path: Path) -> Iterator[Path]:
    """With `good`, and beside it `one`, which is to be spoilt."""
    shutil.copytree(good, tmp_path / "good")
    shutil.copytree(good, tmp_path / "one")
    yield tmp_path
    torture.open_to_all(tmp_path)


QUESTIONS: dict[str, Callable[[Path], object]] = {
    "extent": queries.extent,
    "layers": lambda run: queries.layer_step(run, ("movies", "tweets"), ALL),
    "projection": lambda run: queries.projection_by_pair(run, ALL),
    "losses": lambda run: queries.losses([run]),
    "metrics": lambda run: queries.metrics([run]),
    "replay": lambda run: replay(run, "sum"),
    "outcomes": outcomes,
    "size": disk_bytes,
}


def refusals(run: Path) -> list[str]:
    """What questions that are not answered are refused with; other errors pass."""
    found = []
    for question in QUESTIONS.values():
        try:
            question(run)
        except OrthoLoraError as refused:
            found.append(str(refused))
    return found


@pytest.mark.parametrize("name", torture.spoilt())
def test_a_spoilt_run_costs_itself_alone(name: str, runs_dir: Path) -> None:
    """It is listed and can be opened, each question is answered or refused in words, and no other run suffers."""
    torture.spoilt()[name](runs_dir / "one")
    assert runs_table(list_runs(runs_dir))["run"].tolist() in (["good", "one"], ["one", "good"])
    assert open_run(runs_dir, "one").state in ("finished", "unreadable")
    assert not [words for words in refusals(runs_dir / "one") if "\n" in words]
    if name != "notes.json missing" and not ("rollup" in name and "flipped" in name):  # known when it is read
        assert open_run(runs_dir, "one").problem, "what is wrong must be named"
    assert open_run(runs_dir, "good").problem is None
    assert board_of(runs_dir / "good").others == ()
    assert outcomes(runs_dir / "good") == ()
    assert find_studies(runs_dir) == {}


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json torn", "manifest.json missing", "manifest.json escaping", "pairs missing", "pairs torn",
        "pairs flipped", "pairs other types", "pairs a pipe", "norms torn", "norms flipped", "steps torn",
        "metrics flipped", "rollup/pairs_by_block torn", "rollup/norms_by_step flipped", "folder rollup gone",
    ],
)  # fmt: skip
def test_a_torn_record_is_diagnosed_and_reported(name: str, runs_dir: Path) -> None:
    torture.spoilt()[name](runs_dir / "one")
    assert len(diagnose(runs_dir / "one").pairs) == 3
    page = render([open_run(runs_dir, "one")], datetime.now(UTC))
    assert "No diagnosis" not in page
    for data in ("matrix", "blocks", "layer-step", "projection-by-layer", "metrics"):
        assert len(frame_of(data, [runs_dir / "one"])) or data == "metrics"


@pytest.mark.parametrize("what", torture.PARTS)
@pytest.mark.parametrize("table", ["pairs", "steps"])
def test_a_part_costs_its_own_rows(table: str, what: str, records: ModuleType, tmp_path: Path) -> None:
    """All rows but those of the part, and in step order."""
    run = torture.write_good(records, tmp_path / "one")
    others = [run / table / part.name for part in read_manifest(run).of(table)][1:]
    assert others or table == "steps"
    torture.PARTS[what](run / table / read_manifest(run).of(table)[0].name)
    found = ask(run, [table], f"SELECT * FROM {table}")
    left = [pq.read_table(path) for path in others]
    expected = pa.concat_tables(left).unify_dictionaries() if left else TABLES[table].empty_table()
    assert_frame_equal(_plain(found), _plain(expected.to_pandas()), check_dtype=False)
    assert f"{table}/part-" in str(open_run(tmp_path, "one").problem)
    torture.open_to_all(tmp_path)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    texts = {name: str for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])}
    return frame.astype(texts)


ANSWERS: dict[str, Callable[[Path], Any]] = {
    table: (lambda run, table=table: ask(run, [table], f"SELECT * FROM {table} ORDER BY ALL")) for table in TABLES
}


@pytest.mark.parametrize("name", ["missing", "torn", "escaping", "a pipe", "a list"])
def test_without_a_manifest_every_row_is_read_once(name: str, runs_dir: Path) -> None:
    torture.spoilt()[f"manifest.json {name}"](runs_dir / "one")
    for table, answer in ANSWERS.items():
        assert_frame_equal(answer(runs_dir / "one"), answer(runs_dir / "good"), obj=table)
    assert "parts that are there." in str(open_run(runs_dir, "one").problem)


def test_parts_that_were_put_together_are_not_read_twice(records: ModuleType, runs_dir: Path, tmp_path: Path) -> None:
    """A kill between the publication of a joined part and the removal of those in it leaves both."""
    run = tmp_path / "killed"
    records.write_run(run, records.run_info("killed", []), records.status(), {})
    shutil.rmtree(run / "pairs", ignore_errors=True)
    for table in ("pairs", "norms", "steps", "metrics", "predictions", "events"):
        (run / table).mkdir(exist_ok=True)
    for directory in (runs_dir / "good").glob("rollup/*"):
        (run / directory.relative_to(runs_dir / "good")).mkdir(parents=True)
    rows = [pq.read_table(path) for path in sorted((runs_dir / "good" / "pairs").glob("*.parquet"))]
    norms = [pq.read_table(path) for path in sorted((runs_dir / "good" / "norms").glob("*.parquet"))]
    gradients = list(decode(pa.concat_tables(rows).unify_dictionaries(), pa.concat_tables(norms).unify_dictionaries()))
    store = Store(run, rows=10**6)
    for begin in range(0, 24, 4):
        store.write(Batch(gradients=gradients[begin : begin + 4]))
    assert len(list((run / "pairs").glob("*.parquet"))) == 6
    store._tidy(2)  # publishes, and keeps what does not count for readers that still hold it
    assert len(list((run / "pairs").glob("*.parquet"))) == 7
    expected = {table: ANSWERS[table](run) for table in ("pairs", "norms")}
    (run / "manifest.json").unlink()
    assert len(counted(run).of("pairs")) == 1
    for table, frame in expected.items():
        assert_frame_equal(ANSWERS[table](run), frame)
    assert "without the 12 whose rows are in newer ones" in str(open_run(tmp_path, "killed").problem)


def test_a_step_that_two_parts_share_is_read_wholly(records: ModuleType, tmp_path: Path) -> None:
    """Overlapping parts without a row in common both count: a part may end within a step."""
    run = records.write_run(tmp_path / "one", records.run_info("one", []), records.status(), {})
    (run / "metrics").mkdir()
    for number, task in enumerate(("movies", "tweets")):
        row = {
            "step": [4],
            "split": ["validation"],
            "task": [task],
            "metric": ["loss"],
            "value": [1.0],
            "examples": [9],
        }
        table = pa.Table.from_pandas(pd.DataFrame(row)).cast(TABLES["metrics"])
        write_part(run / "metrics" / part_name(number), table)
    (run / "manifest.json").write_text("{")
    assert ask(run, ["metrics"], "SELECT task FROM metrics ORDER BY task")["task"].tolist() == ["movies", "tweets"]


def test_a_run_that_has_published_nothing_has_nothing(records: ModuleType, runs_dir: Path) -> None:
    """While its process lives: what is on disk is half of its first rows."""
    (runs_dir / "one" / "manifest.json").unlink()
    (runs_dir / "one" / "status.json").write_text(records.status("running").model_dump_json())
    assert counted(runs_dir / "one").parts == {}
    (runs_dir / "one" / "status.json").write_text(records.status("running", pid=2**22 - 1).model_dump_json())
    assert counted(runs_dir / "one").of("pairs")


def test_whatever_lies_there_is_listed_or_named(runs_dir: Path) -> None:
    torture.litter(runs_dir, runs_dir / "good")
    found = survey(runs_dir)
    listed = {run.run_id: run for run in found.runs}
    assert {*torture.NAMES, "good", "one", "linked", "foreign", "closed", "listed only"} <= listed.keys()
    for name, run in listed.items():
        opened = open_run(runs_dir, name)
        assert (opened.run_id, opened.state) == (name, run.state)
        assert opened.info is None or opened.info.run_id == name
    assert {listed[name].state for name in torture.NAMES} == {"finished"}
    for name in ("foreign", "closed", "listed only"):
        assert listed[name].state == "unreadable"
        assert str(runs_dir / name) in str(listed[name].problem)
    assert sorted(found.left_out) == [
        "a file.txt (a file)",
        "bytes? (its name is not text)",
        "loop (a link that leads nowhere)",
        "nowhere (a link that leads nowhere)",
        "pipe (not a directory)",
    ]
    assert len(runs_table(found.runs)) == len(found.runs)
    assert outcomes(runs_dir / "good") == ()


@pytest.mark.parametrize("names", list(zip(torture.NAMES[::2], torture.NAMES[1::2], strict=True)))
def test_copied_runs_read_by_where_they_stand(names: tuple[str, str], runs_dir: Path, tmp_path: Path) -> None:
    """Every command, and every name of data."""
    paths = [str(shutil.copytree(runs_dir / "good", runs_dir / name)) for name in names]
    for arguments in (
        *(["summary", path, "--json"] for path in paths),
        ["diagnose", *paths],
        *(["replay", path, "--rule", "pcgrad"] for path in paths),
        ["report", *paths, "-o", str(tmp_path / "r.html")],
        ["export", *paths, "--what", "losses", "-o", str(tmp_path / "losses.csv")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    exported = pd.read_csv(tmp_path / "losses.csv", keep_default_na=False)["run"]
    assert set(exported) == {f"'{name}" if name[0] in "=+-@" else name for name in names}


def test_every_name_of_data_is_exported_of_a_copied_run(runs_dir: Path) -> None:
    shutil.copytree(runs_dir / "good", runs_dir / "r (copy)")
    for data in DATA:
        frame = frame_of(data, [runs_dir / "r (copy)"])
        assert set(frame["run"]) <= {"r (copy)"}, data


@pytest.mark.parametrize("make", ["a file", "closed", "a link to itself"])
def test_a_runs_directory_that_cannot_be_listed_is_told(make: str, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    if make == "a file":
        path.write_text("")
    elif make == "closed":
        path.mkdir(mode=0)
    else:
        path.symlink_to(path)
    with pytest.raises(OrthoLoraError, match=r"runs: cannot be listed \(.*\): choose a directory of runs that you may"):
        survey(path)
    assert find_studies(path) == {}


def test_a_run_is_asked_where_its_neighbours_cannot_be_listed(runs_dir: Path) -> None:
    runs_dir.chmod(0o111)
    try:
        assert outcomes(runs_dir / "good") == ()
        assert len(diagnose(runs_dir / "good").pairs) == 3
    finally:
        runs_dir.chmod(0o700)


def test_what_vanishes_while_it_is_asked_is_told(runs_dir: Path) -> None:
    run = open_run(runs_dir, "one")
    shutil.rmtree(run.path)
    assert disk_bytes(run.path) == 0
    assert run.state == "finished"
    with pytest.raises(OrthoLoraError, match="'one': not in"):
        open_run(runs_dir, "one")
    assert refusals(run.path)
    assert not [words for words in refusals(run.path) if "no run.json" not in words]
