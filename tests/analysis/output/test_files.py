"""The files of an export: that they give back the data, and replace nothing."""

import csv
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from analysis.__main__ import app
from analysis.output.data import DATA, frame_of
from analysis.output.files import csv_text


@pytest.fixture(scope="module")
def alone(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without pairs, as of `single`."""
    info = records.run_info("alone", [records.task_info("movies")], method="single", rule="sum")
    of_one = {name: rows[rows["task"] == "movies"] for name, rows in tables.items() if name != "pairs"}
    path: Path = records.write_run(tmp_path_factory.mktemp("runs") / "alone", info, records.status(), of_one)
    return path


def export(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize("name", DATA)
def test_files_give_back_the_frame(run: Path, alone: Path, tmp_path: Path, name: str) -> None:
    frame = frame_of(name, [run, alone])
    for form in ("csv", "parquet"):
        done = export(run, alone, "--what", name, "-o", tmp_path / f"data.{form}")
        assert done.exit_code == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "data.parquet"), frame, check_dtype=False, rtol=1e-12)
    text = pd.read_csv(tmp_path / "data.csv").astype(frame.dtypes)
    pd.testing.assert_frame_equal(text, frame, rtol=1e-12)


@pytest.mark.parametrize("name", DATA)
def test_a_run_without_pairs_gives_columns_of_the_same_types(run: Path, alone: Path, tmp_path: Path, name: str) -> None:
    for path in (run, alone):
        assert export(path, "--what", name, "-o", tmp_path / f"{path.name}.parquet").exit_code == 0
    full, empty = (pq.read_schema(tmp_path / f"{path.name}.parquet") for path in (run, alone))
    assert empty.names == full.names
    assert "null" not in {str(field.type) for field in [*empty, *full]}


def test_without_names_all_go_into_a_directory(run: Path, tmp_path: Path) -> None:
    done = export(run, "-o", tmp_path / "all", "--json")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert {Path(one["path"]) for one in document["written"]} == set((tmp_path / "all").iterdir())
    assert {one["name"] for one in document["written"]} == set(DATA)
    assert document["left_out"] == []


def test_what_cannot_be_chosen_from_is_left_out_in_words(run: Path, tmp_path: Path) -> None:
    done = export(run, "--layer", 1, "-o", tmp_path / "all")
    assert done.exit_code == 0
    assert "left out: losses: cannot be chosen by layers; it is always of the whole run." in done.stderr
    assert not (tmp_path / "all" / "losses.csv").exists()
    assert set(pd.read_csv(tmp_path / "all" / "blocks.csv")["layer"]) == {1}


def test_standard_output_takes_one_table(run: Path) -> None:
    done = export(run, "--what", "noise", "-o", "-")
    assert done.exit_code == 0
    assert pd.read_csv(io.StringIO(done.stdout))["task"].tolist() == ["movies", "tweets", "trec"] * 2
    assert export(run, "--what", "noise", "--what", "matrix", "-o", "-").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "matrx"], "nearest: matrix"),
        (["--what", "losses", "--branch", "A"], "losses: cannot be chosen by branches"),
        (["--what", "weights", "--pair", "movies", "trec"], "weights: cannot be chosen by pair, only by steps, layers"),
        (
            ["--what", "matrix", "--pair", "movies", "spam"],
            "expected two different tasks of first: movies, tweets, trec",
        ),
        (["--what", "matrix", "--pair", "trec", "trec"], "expected two different tasks"),
        (["--what", "matrix", "--layer", "7"], "layer 7: not in the record of first; expected one of 0, 1."),
        (["--what", "matrix", "--module", "key"], "module key: not in the record of first; expected one of query, val"),
        (["--what", "matrix", "--steps", "9", "3"], "steps: 9 to 3 given"),
        (["--what", "matrix", "-o", "x.csv", "--format", "parquet"], "named like another format"),
        (["-o", "x.csv"], "a file cannot hold"),
    ],
)
def test_refusals(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = export(run, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_must_be_named() -> None:
    assert "expected at least one RUN_DIR" in export().stderr


def test_files_are_replaced_only_by_force(run: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_text("mine")
    done = export(run, "--what", "matrix", "--what", "noise", "-o", tmp_path)
    assert "noise.csv: exists; give another -o, or --force to replace it." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["noise.csv"]  # nothing else was written either
    assert export(run, "--what", "noise", "-o", tmp_path, "--force").exit_code == 0
    assert (tmp_path / "noise.csv").read_text().startswith("run,branch,task,")


def test_two_runs_of_one_name_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / run.name).symlink_to(run)
    copy = tmp_path / "other" / run.name
    copy.mkdir(parents=True)
    (copy / "run.json").write_text((run / "run.json").read_text())
    assert "is the name of two runs here" in export(run, copy, "--what", "matrix").stderr


def test_numbers_keep_their_precision_and_nulls_stay_empty() -> None:
    frame = pd.DataFrame({"cosine": [1 / 3, None], "steps": pd.array([None, 2**53 + 1], dtype="Int64")})
    assert csv_text(frame) == f"cosine,steps\n{1 / 3!r},\n,{2**53 + 1}\n"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=1))
def test_no_text_of_a_table_begins_like_a_formula(texts: list[str]) -> None:
    frame = pd.DataFrame({"task": texts, "cosine": np.linspace(-1, 1, len(texts))})
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(csv_text(frame), newline="")))
    assert not [row["task"] for row in rows if row["task"].startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row["task"].removeprefix("'") for row in rows] == [text.removeprefix("'") for text in texts]
    assert [float(row["cosine"]) for row in rows] == frame["cosine"].tolist()
