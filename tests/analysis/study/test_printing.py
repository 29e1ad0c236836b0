"""A study in a terminal, as Markdown, as JSON, and as figures."""

import json
import re

from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.figures.standalone import CONFIG
from analysis.study.findings import find
from analysis.study.printing import markdown

RUN = CliRunner().invoke


def test_a_terminal_gets_sentences_and_tables(finished):
    done = RUN(app, ["study", str(finished)], env={"COLUMNS": "160"})
    assert done.exit_code == 0
    for part in ("made: Does projection help?", "Gain over joint", "+6.4", "Gap recovery", "Equal seconds", "Cost"):
        assert part in done.output


def test_json_holds_every_number_and_no_nan(finished):
    done = RUN(app, ["study", str(finished), "--json"])
    document = json.loads(done.output, parse_constant=lambda name: 1 / 0)
    assert document["methods"] == ["single", "joint", "ortho-lora"]
    gain = next(row for row in document["gains"] if row["method"] == "ortho-lora")
    assert {"gain", "low", "high", "values", "respects"} <= gain.keys()
    assert document["costs"][0]["peak_bytes"] is None


def test_markdown_tables_are_whole(finished):
    text = RUN(app, ["study", str(finished), "--markdown"]).output
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_names_are_not_markup(maker):
    hostile = "a|b<script>`*"
    maker.add("joint", 0, {hostile: 0.5})
    text = markdown(find(maker.write(title="[x](y)")))
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "a\\|b" in text


def test_figures_are_pages_that_ask_nobody(paired_study, tmp_path):
    before = dict(CONFIG)
    done = RUN(app, ["study", str(paired_study), "--figures", str(tmp_path / "figures")])
    assert done.exit_code == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"plotly.min.js", "gains.html", "cost.html", "transfer.html", "conflict-and-transfer.html"}
    assert 'src="plotly.min.js"' in (tmp_path / "figures" / "transfer.html").read_text()
    assert before == CONFIG  # which reports use too


def test_no_study_is_one_sentence(tmp_path):
    done = RUN(app, ["study", str(tmp_path)])
    assert done.exit_code == 2
    assert "not a study (no study.json)" in done.output
    assert "Traceback" not in done.output
