"""What a report holds, read by a parser of its own, and that nothing in it is obeyed that came from a record."""

import base64
import copy
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from infos import INFO
from snapshots import known_snapshot
from typer.testing import CliRunner, Result
from vectors import drawn, truth

import analysis.report.page
from analysis import figures
from analysis.__main__ import app
from analysis.conflict import queries
from analysis.diagnosis.diagnose import diagnose
from analysis.figures import standalone
from analysis.library.runs import open_run
from analysis.output.data import DATA
from analysis.report.page import render, write_report
from analysis.transfer.predicted import target_progress, transfer_matrix
from analysis.transfer.words import told_of_targets
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import TaskInfo

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "br", "line", "circle"}


class Page(HTMLParser):
    """Elements, their attributes and their text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.texts) - 1)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]] += data

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        pairs = zip(self.elements, self.texts, strict=True)
        return [(found, text) for (name, found), text in pairs if name == tag and wanted.items() <= found.items()]

    @property
    def prose(self) -> str:
        """All text but scripts and styles."""
        pairs = zip(self.elements, self.texts, strict=True)
        return " ".join(text for (tag, _), text in pairs if tag not in ("script", "style"))


@pytest.fixture(scope="module", autouse=True)
def _short_script() -> Iterator[None]:
    """Plotly's own 4.8 MB are for the browser test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "script", lambda: "var Plotly;")
        yield


def page_of(*runs: Path) -> Page:
    page = Page(render([open_run(run.parent, run.name) for run in runs], NOW))
    assert page.open == []  # every element is closed, in order
    return page


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


@pytest.fixture(scope="module")
def hostile(records: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = records.write_hostile(tmp_path_factory.mktemp("runs") / "hostile")
    return path


@pytest.fixture(scope="module")
def hostile_page(hostile: Path) -> Page:
    return page_of(hostile)


@pytest.fixture(scope="module")
def short(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose report has two figures, for tests of where it is written."""
    info = records.run_info("short", [records.task_info(name) for name in ("movies", "tweets", "trec")])
    kept = {name: tables[name] for name in ("steps", "metrics")}
    path: Path = records.write_run(tmp_path_factory.mktemp("runs") / "short", info, records.status(), kept)
    return path


def test_it_says_what_the_diagnosis_says(run: Path, page: Page) -> None:
    found = diagnose(run)
    assert found.summary in page.prose
    for pair in found.pairs:
        assert f"{pair.task_i} – {pair.task_j}" in page.prose
        for branch in pair.branches:
            assert f"{branch.cosine:+.2f}" in page.prose
    for suggestion in found.suggestions:
        assert suggestion.text in page.prose
        assert suggestion.evidence in page.prose


def test_every_figure_has_words_and_numbers(run: Path, page: Page) -> None:
    shown = page.all("figure")
    assert len(shown) >= 10
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    drawn = page.all("div", role="group")
    assert len(drawn) == len(shown) == len(page.all("script", type="application/json")) - 1
    for attributes, _ in drawn:
        assert attributes["aria-label"]
        assert attributes["data-figure"] in identifiers
    captions = [one["aria-label"] for one, _ in page.all("div", role="region")]
    assert sum(caption.startswith("The numbers of: ") for caption in captions) == len(shown)
    assert figures.describe(queries.weights(run, queries.Selection())) in [one["aria-label"] for one, _ in drawn]


def test_links_lead_to_sections_of_the_page(page: Page) -> None:
    identifiers = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for attributes, _ in page.all("a")]
    assert len(links) > 8
    assert all(link.startswith("#") and link[1:] in identifiers for link in links)


def test_commands_under_figures_give_their_numbers(
    run: Path, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [text for _, text in page.all("code") if " export " in text]
    assert len(commands) >= 10
    monkeypatch.chdir(run.parent.parent)
    rows = 0
    for number, command in enumerate(dict.fromkeys(commands)):
        python, dash_m, module, *arguments = shlex.split(command)
        assert (python, dash_m, module) == ("python", "-m", "analysis")
        done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / f"{number}.csv")])
        assert done.exit_code == 0, done.stderr
        rows += len(pd.read_csv(tmp_path / f"{number}.csv"))
    assert rows > 500
    named = {word for command in commands for word in shlex.split(command)}
    assert {"matrix", "layer-step", "pair-over-steps", "weights", "metrics", "losses", "replay"} <= named & {*DATA}


def test_only_the_two_scripts_of_its_own_may_run(hostile_page: Page) -> None:
    page = hostile_page
    (policy,) = (attributes["content"] for attributes, _ in page.all("meta") if "http-equiv" in attributes)
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    scripts = [text for attributes, text in page.all("script") if not attributes]
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(allowed) == 2
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def strings(value: Any) -> Iterator[str]:
    """Every text that a figure may show."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            # What a click tells a page is shown to nobody, unless a hover quotes it.
            quoted = "%{customdata" in str(value.get("hovertemplate", ""))
            if key != "legendgroup" and (key != "customdata" or quoted):
                yield from strings(one)


def test_names_are_text_and_nothing_else(records: ModuleType, hostile_page: Page) -> None:
    page = hostile_page
    template = "".join(path.read_text() for path in Path(analysis.report.page.__file__).parent.glob("*.html"))
    assert {tag for tag, _ in page.elements} <= set(re.findall(r"<([a-z][a-z0-9]*)", template))
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        assert attributes.get("href", "#").startswith("#")
    for name in records.HOSTILE:
        assert name in page.prose
    figures_drawn = [text for _, text in page.all("script", type="application/json")]
    assert len(figures_drawn) > 10
    for text in figures_drawn:
        assert "<" not in text
        tags = {tag for label in strings(json.loads(text)) for tag in re.findall(r"<[^<>]*>", label)}
        of_contrast = {'<span style="color:#000">', '<span style="color:#fff">', "</span>"}
        assert tags - of_contrast <= {"<b>", "</b>", "<i>", "</i>", "<br>", "<extra>", "</extra>"}


def test_files_left_out_are_named_without_the_place_of_the_runs(hostile: Path, hostile_page: Page) -> None:
    prose = hostile_page.prose
    assert "hostile/pairs/<img src=x>.parquet: not a part of the record, so it is left out." in prose
    assert str(hostile.parent) not in prose


def test_a_torn_part_is_named_and_the_rest_is_shown(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "torn")
    (copied / "norms" / "part-000001.parquet").write_bytes(b"PAR1")
    page = page_of(copied)
    assert "torn/norms/part-000001.parquet: torn, or not a Parquet file" in page.prose
    assert "No replay: " not in page.prose  # of the steps that are whole
    assert len(page.all("div", role="group")) >= 10


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": "running"}, "still training, at step 40 of 40"),
        ({"state": "running", "heartbeat": 0.0}, "given no sign for a while"),
        ({"state": "running", "pid": 2**22 + 1}, "Its process was gone, at step 40 of 40"),
        ({"state": "stopped"}, "It was stopped at step 40 of 40"),
        ({"state": "failed", "message": "loss is NaN"}, "It said: loss is NaN"),
    ],
)
def test_a_run_that_has_not_finished_says_so(
    records: ModuleType, page: Page, tmp_path: Path, state: dict[str, Any], words: str
) -> None:
    info = records.run_info("live", [records.task_info("movies"), records.task_info("trec")])
    prose = page_of(records.write_run(tmp_path / "live", info, records.status(**state), {})).prose
    assert words in prose
    assert "This run has not finished." in prose
    assert "This run has not finished." not in page.prose


@pytest.mark.parametrize(
    ("tasks", "fields", "keep", "words"),
    [
        (("movies", "trec"), {"method": "single"}, ("norms", "steps", "metrics"), "no gradients meet"),
        (("movies",), {}, ("norms", "steps", "metrics"), "One task: a conflict needs two."),
        (("movies", "trec"), {}, (), "No gradients of two tasks at once are recorded yet"),
    ],
)
def test_runs_without_pairs(
    records: ModuleType,
    tables: dict[str, pd.DataFrame],
    tmp_path: Path,
    tasks: tuple[str, ...],
    fields: dict[str, Any],
    keep: tuple[str, ...],
    words: str,
) -> None:
    info = records.run_info("alone", [records.task_info(name) for name in tasks], **fields)
    kept = {name: tables[name][tables[name]["task"].isin(tasks)] for name in keep}
    page = page_of(records.write_run(tmp_path / "alone", info, records.status(), kept))
    assert words in page.prose
    assert "There is no pair of tasks to replay." in page.prose
    assert len(page.all("div", role="group")) == (2 if keep else 0)
    assert ("Nothing is recorded of this yet." in page.prose) == (not keep)


def test_a_loop_of_ones_own_has_no_metrics(
    records: ModuleType, short: Path, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    tasks = [TaskInfo(name=name) for name in ("movies", "tweets", "trec")]
    info = records.run_info("own", tasks, gradient_mode="library")
    kept = {"steps": tables["steps"]}
    own = records.write_run(tmp_path / "own", info, records.status(total=0), kept)
    prose = page_of(own).prose
    assert "A training loop of one's own records no evaluation" in prose
    assert "Trained in a loop of its own: no configuration is recorded." in prose
    assert "2 runs side by side" in page_of(own, short).prose


def test_transfer_is_told_where_a_snapshot_has_held_out_texts(tmp_path: Path) -> None:
    tasks = tuple(TaskInfo(name=name) for name in "abc")
    for name, vectors in (("with", drawn(truth(0), 0)), ("without", None)):
        with Recorder(tmp_path / name) as recorder:
            recorder.begin(INFO.model_copy(update={"run_id": name, "tasks": tasks}))
            recorder.add_snapshot(0, known_snapshot(0, vectors=vectors))
        prose = page_of(tmp_path / name).prose
        told = told_of_targets(transfer_matrix(tmp_path / name), target_progress(tmp_path / name))
        assert len(told) == (2 if vectors else 0)
        assert all(line in prose for line in told)
        assert ("Advised: " in prose) == (vectors is not None)


def test_runs_side_by_side(records: ModuleType, short: Path, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    info = records.run_info("second", [records.task_info(name) for name in ("movies", "trec")], method="joint")
    kept = {name: rows[rows["task"] != "tweets"] for name, rows in tables.items() if name in ("steps", "metrics")}
    kept["metrics"] = kept["metrics"].assign(value=0.123)
    second = records.write_run(tmp_path / "second", info, records.status(), kept)
    page = page_of(short, second)
    (final,) = (
        place
        for place, (_, attributes) in enumerate(page.elements)
        if attributes.get("aria-label") == "Last validation values"
    )
    cells = [text for (tag, _), text in zip(page.elements[final:], page.texts[final:], strict=True) if tag == "td"]
    last = tables["metrics"].query("step == 80 and metric == 'accuracy'").set_index("task")["value"]
    assert cells[:5] == ["movies", "accuracy", "0.5000", f"{last['movies']:#.4g}", "0.1230"]
    assert cells[5:10] == ["tweets", "accuracy", "0.5000", f"{last['tweets']:#.4g}", "–"]
    headings = [text for _, text in page.all("h2")]
    assert headings == ["Side by side", "short", "second"]


def test_on_a_dark_page_only_what_differs_is_changed(run: Path) -> None:
    frame = queries.task_matrix(run, queries.Selection())
    for draw in (
        lambda dark: figures.task_heatmap(frame, ["movies", "tweets", "trec"], dark=dark),
        lambda dark: figures.weights_over_steps(queries.weights(run, queries.Selection()), dark=dark),
    ):
        document = standalone.document(draw)
        assert document["figure"] == json.loads(draw(False).to_json())
        changed = copy.deepcopy(document["figure"])
        for path, value in document["dark"]:
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        assert changed == json.loads(draw(True).to_json())
        assert len(json.dumps(document["dark"])) < len(json.dumps(document["figure"])) / 2


def test_no_button_uploads() -> None:
    assert standalone.CONFIG["showSendToCloud"] is False
    assert standalone.CONFIG["plotlyServerURL"] == ""


def test_the_command_writes_one_file(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = report(short)
    assert re.fullmatch(r"wrote short-report\.html \(0\.\d MB\)\n", done.stdout), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["short-report.html"]
    again = report(short, "--json")  # a former report is replaced
    assert json.loads(again.stdout) == {
        "report": "short-report.html",
        "bytes": Path("short-report.html").stat().st_size,
        "runs": ["short"],
    }


def test_other_files_are_replaced_only_by_force(short: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.html"
    other.write_text("mine")
    done = report(short, "-o", other)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {other}: exists and is no report; give another -o, or --force to replace it.\n"
    assert other.read_text() == "mine"
    assert report(short, "-o", other, "--force").exit_code == 0
    assert other.read_text().startswith("<!DOCTYPE html>")


def test_a_place_that_cannot_be_written(short: Path, tmp_path: Path) -> None:
    runs = [open_run(short.parent, short.name)]
    with pytest.raises(OrthoLoraError, match="is a directory; expected the name of a file"):
        write_report(runs, tmp_path)
    with pytest.raises(OrthoLoraError, match="cannot be written"):
        write_report(runs, tmp_path / "absent" / "report.html")


@pytest.mark.parametrize(("name", "message"), [("absent", "'absent': not in"), ("bare", "no run.json")])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "bare").mkdir()
    done = report(tmp_path / name, "-o", tmp_path / "report.html")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "report.html").exists()
