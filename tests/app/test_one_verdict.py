"""Whatever speaks of a pair says the one judge's verdict: pages, report, commands, exports and figures, run by run."""

import json
import re

import numpy as np
import pytest
from snapshots import snapshot_tables
from typer.testing import CliRunner

from analysis import figures
from analysis.__main__ import app
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.diagnosis.diagnose import diagnose
from analysis.figures.words import describe
from analysis.library.runs import open_run
from analysis.output.data import frame_of
from analysis.report.page import write_report
from ortho_lora.record.judge import MARKS, TOLD

NAMES = ("one", "two", "three", "four")
ALL = Selection()
# Of `written`: among them each verdict, a twin, a task without a signal, a branch without gradients, no half products.
SEEDS = (0, 1, 3, 4, 5, 9)


@pytest.fixture
def written(records, runs_dir):
    """Writes a run of four tasks with cosines of its own: clear or noisy, short or long, with a twin or without."""

    def write(seed):
        rng = np.random.default_rng(seed)
        true = np.linalg.qr(rng.standard_normal((8, 8)))[0][:4]
        true[1] = rng.uniform(-1, 1) * true[0] + true[1] * rng.uniform(0.2, 1)
        true[2] *= seed % 3 > 0  # a task without a signal
        shape, noise = (int(rng.integers(6, 60)), 1, 2, 2), rng.uniform(0.1, 1.5)
        halves = records.noisy_halves(true, shape, noise, rng)
        halves[:, :, :, 0] *= seed % 4 > 0  # a branch without gradients
        tables = records.gradient_tables(halves, NAMES)
        if seed % 5 == 0:
            tables["norms"]["half_product"] = np.nan
        tasks = [records.task_info(name, twin_of="one" if name == "two" and seed % 2 else None) for name in NAMES]
        info = records.run_info(f"run{seed}", tasks, layers=1)
        return records.write_run(runs_dir / info.run_id, info, records.status(), tables)

    return write


def verdicts(run):
    """The judge's, by pair and branch."""
    matrix = queries.task_matrix(run, ALL)
    return {(row.task_i, row.task_j, row.branch): row.verdict for row in matrix.itertuples()}


def of_rows(rows):
    return {(row["task_i"], row["task_j"], row["branch"]): row["verdict"] for row in rows}


def words(test):
    assert not test.exception
    kinds = (test.markdown, test.caption, test.subheader)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def drawn(test):
    """The verdicts in the figure of the page Diagnosis, by pair and what they are on."""
    figure = json.loads(test.get("plotly_chart")[0].proto.spec)
    rows = [re.fullmatch(r"(\w+) – (\w+)(?:, ([AB]))? (.)", row) for row in figure["layout"]["yaxis"]["ticktext"]]
    named = {mark: verdict for verdict, mark in MARKS.items()}
    return {(row[1], row[2], row[3] or "both"): named[row[4]] for row in rows}


def run_command(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_seeds_have_every_verdict(written):
    assert {verdict for seed in SEEDS for verdict in verdicts(written(seed)).values()} == set(MARKS)


@pytest.mark.parametrize("seed", SEEDS)
def test_data_commands_report_and_figures(seed, written, tmp_path):
    run = written(seed)
    expected = verdicts(run)
    diagnosis = diagnose(run)
    branches = [(pair, branch) for pair in diagnosis.pairs for branch in pair.branches]
    assert {(pair.task_i, pair.task_j, branch.branch): branch.verdict for pair, branch in branches} == expected
    assert of_rows(frame_of("verdicts", [run]).to_dict("records")) == expected
    assert of_rows(frame_of("batches-needed", [run]).to_dict("records")) == expected
    assert of_rows(json.loads(run_command("summary", run, "--json"))["pairs"]) == expected
    (document,) = json.loads(run_command("diagnose", run, "--json"))
    assert {
        (pair["task_i"], pair["task_j"], branch["branch"]): branch["verdict"]
        for pair in document["pairs"]
        for branch in pair["branches"]
    } == expected

    counts = {verdict: list(expected.values()).count(verdict) for verdict in MARKS}
    sentence = describe(queries.task_matrix(run, ALL))
    measured = queries.task_matrix(run, ALL).query("steps > 0")["verdict"].value_counts()
    assert all(f"{count} {verdict}" in sentence for verdict, count in measured.items())
    of_pairs = [pair.verdict for pair in diagnosis.pairs]
    conflicts = of_pairs.count("conflict")
    assert (f"{conflicts} of 6 pairs conflict" in diagnosis.summary) == (conflicts > 0)

    write_report([open_run(run.parent, run.name)], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    badges = re.findall(r"<td>[AB]</td><td><span class=.badge \w+.>([^<]*)</span>", html)
    assert {verdict: badges.count(verdict) for verdict in MARKS} == counts
    cards = re.findall(r'<article class="card (\w+)">', html)
    assert sorted(cards) == sorted(verdict for verdict in of_pairs if verdict in TOLD)

    blocks = queries.blocks(run, ALL)
    told = blocks[blocks["clear"]]
    assert set(told["verdict"]) <= set(TOLD)
    assert ((told["cos"] < 0) == (told["verdict"] == "conflict")).all()
    for view in ("cosine", "batch", "rate"):
        figure = figures.task_heatmap(queries.task_matrix(run, ALL), NAMES, view, when=("before",))
        maps = [trace for trace in figure.data if trace.type == "heatmap" and trace.hovertext is not None]
        axes = [trace.xaxis for trace in maps if trace.coloraxis]
        for (one, other, branch), verdict in expected.items():
            place = NAMES.index(one), NAMES.index(other)
            axis = axes[sorted({branch for *_, branch in expected}).index(branch)]
            texts = [trace.text[place[0]][place[1]] for trace in maps if trace.xaxis == axis]
            assert any("<b>" in text for text in texts) == (verdict in TOLD)


def test_of_snapshots_too_with_a_task_that_they_lack(records, runs_dir, tmp_path, open_page):
    halves = records.noisy_halves(np.eye(8)[:4], (12, 1, 2, 2), 1.0, np.random.default_rng(0))
    tables = records.gradient_tables(halves, NAMES) | snapshot_tables((0, 4), NAMES[:3], (0,))
    info = records.run_info("looked", [records.task_info(name) for name in NAMES], layers=1)
    run = records.write_run(runs_dir / "looked", info, records.status(), tables)
    expected = verdicts(run)
    snapshot = queries.snapshot_matrix(run)
    assert {(row.task_i, row.task_j, row.branch): row.verdict for row in snapshot.itertuples()} == {
        key: verdict for key, verdict in expected.items() if "four" not in key
    }
    assert {verdict for key, verdict in expected.items() if "four" in key} == {"not enough data"}
    (document,) = json.loads(run_command("diagnose", run, "--json"))
    of_branches = {
        (pair["task_i"], pair["task_j"], branch["branch"]): branch["verdict"]
        for pair in document["pairs"]
        for branch in pair["branches"]
    }
    assert of_branches == expected == of_rows(frame_of("verdicts", [run]).to_dict("records"))
    assert of_rows(json.loads(run_command("summary", run, "--json"))["pairs"]) == expected
    of_pairs = {(pair["task_i"], pair["task_j"]): pair["verdict"] for pair in document["pairs"]}
    whole = {key[:2]: verdict for key, verdict in expected.items() if key[2] == "both"}
    assert {pair: of_pairs[pair] for pair in whole} == whole
    assert whole["one", "two"] == "aligned"
    assert "Verdicts on pairs: 1 aligned" in describe(queries.task_matrix(run, ALL))

    write_report([open_run(run.parent, run.name)], tmp_path / "report.html")
    badges = re.findall(
        r"<td>(whole|[AB])</td><td><span class=.badge \w+.>([^<]*)</span>", (tmp_path / "report.html").read_text()
    )
    assert sorted(badges) == sorted((key[2].replace("both", "whole"), verdict) for key, verdict in expected.items())
    said = words(open_page("conflicts"))
    assert "Whole model: aligned, strong" in said
    assert drawn(open_page("diagnosis")) == {key: of for key, of in expected.items() if key[2] == "both"}


@pytest.mark.parametrize("seed", [0, 9, 16])  # nothing told, an agreement, a conflict
def test_pages(seed, written, open_page):
    run = written(seed)
    expected = verdicts(run)
    pairs = {(pair.task_i, pair.task_j): pair.verdict for pair in diagnose(run).pairs}

    diagnosis = open_page("diagnosis")
    shown = words(diagnosis)
    for (one, other), verdict in pairs.items():
        card = rf"#### {one} – {other} :\w+-badge\[{re.escape(MARKS[verdict])} {verdict}\]"
        assert bool(re.search(card, shown)) == (verdict in TOLD)
    assert drawn(diagnosis) == expected
    for one, other in pairs:
        shown = words(open_page("conflicts", pair=f"{one} + {other}"))
        said = re.findall(r"On branch ([AB]): ([a-z ]+)[:,]", shown)
        assert {(one, other, branch): verdict for branch, verdict in said} == {
            key: verdict for key, verdict in expected.items() if key[:2] == (one, other)
        }
    (said,) = re.findall(r"#### (\w+) and (\w+): On branch ([AB]): ([a-z ]+)[:,]", words(open_page("start")))
    assert expected[said[:3]] == said[3]
    assert (said[3] == "conflict") == ("conflict" in expected.values())
    open_page("layers")
