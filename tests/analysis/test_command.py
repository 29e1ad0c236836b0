import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.conflict.queries import Selection, task_matrix
from ortho_lora.record.schema import TaskInfo


def test_json(run: Path) -> None:
    result = CliRunner().invoke(app, ["summary", str(run), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["state"], document["tasks"]) == ("finished", ["movies", "tweets", "trec"])
    assert [row["majority"] for row in document["metrics"]] == [0.5] * 3
    expected = task_matrix(run, Selection())
    assert [row["cos_before"] for row in document["pairs"]] == pytest.approx(expected["cos_before"].tolist())


def test_text(run: Path) -> None:
    result = CliRunner().invoke(app, ["summary", str(run)])
    assert result.exit_code == 0
    for words in ("first: finished", "majority", "Branch B", "half by chance"):
        assert words in result.stdout


def test_a_run_of_somebodys_own_loop(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """It knows neither kinds nor metrics of its tasks."""
    info = records.run_info("mine", [TaskInfo(name=name) for name in ("movies", "tweets", "trec")])
    run = records.write_run(
        tmp_path / "mine", info, records.status(), {name: tables[name] for name in ("pairs", "norms")}
    )
    result = CliRunner().invoke(app, ["summary", str(run)])
    assert result.exit_code == 0, result.output
    assert "Branch B" in result.stdout
    assert "majority" not in result.stdout


@pytest.mark.parametrize(("name", "message"), [("absent", "'absent': not in"), ("bare", "no run.json")])
def test_errors_are_one_sentence(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "bare").mkdir()
    result = CliRunner().invoke(app, ["summary", str(tmp_path / name)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_summary_says_what_was_left_out_of_the_data(records, tmp_path):
    task = TaskInfo(name="mnli", dropped={"train": {"empty": 3, "repeated": 1}, "validation": {"label -": 20}})
    run = records.write_run(tmp_path / "mine", records.run_info("mine", [task]), records.status(), {})
    result = CliRunner().invoke(app, ["summary", str(run)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "Rows left out of mnli: 3 empty, 1 repeated of train; 20 label - of validation." in said
