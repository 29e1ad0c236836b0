"""What roll-ups tell equals what the rows tell."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analysis.conflict import agreement, queries
from analysis.reading import rollups
from analysis.reading.damage import problems, sound
from analysis.reading.database import Selection, ask
from ortho_lora.record.manifest import Bins, Manifest, Part, read_manifest
from ortho_lora.record.tables import ROLLUPS

ALL = Selection()
PAIR = ("movies", "trec")


@pytest.fixture(scope="module")
def rolled(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `run` as training writes it: bins of 16 steps, one bin of blocks, and small parts put together."""
    path = tmp_path_factory.mktemp("rolled") / "first"
    info = records.run_info("first", [records.task_info(name) for name in ("movies", "tweets", "trec")])
    written: Path = records.write_rolled_run(path, info, records.status(), tables)
    return written


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows there are."""
    monkeypatch.setattr(rollups, "RAW_ROWS", 0)


Question = Callable[[Path, Selection], pd.DataFrame]
QUESTIONS: dict[str, Question] = {
    "task_matrix": agreement.task_matrix,
    "noise": agreement.noise,
    "model_steps": lambda run, _: agreement.model_steps(run),
    "pair_steps": agreement.pair_steps,
    "windows": lambda run, selection: agreement.windows(run, selection, 3),
    "by_layer": queries.projection_by_layer,
    "by_pair": queries.projection_by_pair,
    "over_steps": lambda run, selection: queries.pair_over_steps(run, PAIR, selection, 7),
    "projection": lambda run, selection: queries.projection_over_steps(run, selection, 7),
    "weights": lambda run, selection: queries.weights(run, selection, 7),
    "layer_step": lambda run, selection: queries.layer_step(run, PAIR, selection, 2 if selection.steps else 5).drop(
        columns="step_end"  # of a whole bin, recorded or not
    ),
}


def compare(run: Path, rolled: Path, question: Question, selection: Selection) -> None:
    expected, found = question(run, selection), question(rolled, selection)
    assert len(expected)
    assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize(
    "selection", [ALL, Selection(steps=(16, 47)), Selection(branches=("B",))], ids=["all", "bins", "branch"]
)
def test_answers_are_those_of_the_rows(run: Path, rolled: Path, name: str, selection: Selection) -> None:
    compare(run, rolled, QUESTIONS[name], selection)


@pytest.mark.parametrize("name", ["by_layer", "by_pair", "noise"])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(steps=(5, 61)),
        Selection(layers=(1,)),
        Selection(layers=(0,), steps=(3, 76)),
        Selection(modules=("query",)),
    ],
    ids=["edges", "layers", "both", "modules"],
)
def test_sums_over_any_range_are_exact(run: Path, rolled: Path, name: str, selection: Selection) -> None:
    columns = ["signal"] if name == "noise" else []  # told from bins
    question = QUESTIONS[name]
    compare(run, rolled, lambda path, chosen: question(path, chosen).drop(columns=columns), selection)


def test_a_mean_over_chosen_layers_is_exact_and_its_interval_close(run: Path, rolled: Path) -> None:
    selection = Selection(layers=(1,))
    expected, found = agreement.task_matrix(run, selection), agreement.task_matrix(rolled, selection)
    for name in ("cos_before", "cos_after", "rate_before", "rate_after", "similarity"):
        assert found[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=1e-5, abs=1e-7)
    assert found["measured"].tolist() == expected["measured"].tolist()


def test_blocks_and_extent(run: Path, rolled: Path) -> None:
    expected, found = (
        agreement.block_cosines(path, ALL, 1)[["branch", "layer", "module", "cos"]] for path in (run, rolled)
    )
    assert_frame_equal(found, expected, rtol=1e-5)
    assert queries.extent(rolled) == queries.extent(run)


def test_the_rows_of_whole_bins_are_not_read(rolled: Path, tmp_path: Path) -> None:
    manifest = read_manifest(rolled)
    found = rollups.plan(manifest, "pairs", "by_layer", (5, 61))
    assert (found.rolled, found.raw, found.bins.width) == ((16, 47), ((5, 15), (48, 61)), 16)
    assert rollups.plan(manifest, "pairs", "by_step", None).raw == ()
    assert rollups.plan(manifest, "pairs", "by_block", None).raw == ()


def test_a_range_within_a_bin_is_read_from_the_rows(rolled: Path) -> None:
    assert rollups.plan(read_manifest(rolled), "pairs", "by_layer", (18, 30)).rolled is None


def test_few_rows_are_read_as_they_are(rolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "RAW_ROWS", 10**6)
    assert rollups.plan(read_manifest(rolled), "pairs", "by_layer", None).rolled is None


def test_rows_after_the_last_bin_are_read_as_they_are() -> None:
    rows = (
        Part(name="part-000000.parquet", rows=9, first=0, last=40),
        Part(name="part-000001.parquet", rows=9, first=41, last=60),
    )
    bins = (Part(name="part-000000.parquet", rows=1, first=0, last=47),)
    manifest = Manifest(parts={"pairs": rows, "rollup/pairs_by_layer": bins}, bins=Bins(first=0, width=16))
    found = rollups.plan(manifest, "pairs", "by_layer", None)
    assert (found.rolled, found.raw) == ((0, 47), ((48, 60),))


@pytest.mark.parametrize("rollup", [name for name in ROLLUPS if "pairs" in name])
def test_a_torn_roll_up_is_named_and_the_rows_tell_instead(
    run: Path, rolled: Path, tmp_path: Path, rollup: str, records: ModuleType
) -> None:
    copy = tmp_path / "first"
    shutil.copytree(rolled, copy)
    part = read_manifest(copy).of(rollup)[0]
    (copy / rollup / part.name).write_bytes(b"torn")
    assert [words.split(":")[0] for words in problems(copy)] == [str(copy / rollup / part.name)]
    assert sound(copy, read_manifest(copy), [rollup]).of(rollup) == ()
    question = {"step": QUESTIONS["over_steps"], "layer": QUESTIONS["layer_step"]}.get(
        rollup.rsplit("_", 1)[-1], lambda path, _: agreement.block_cosines(path, ALL, 1).drop(columns="p")
    )
    compare(run, copy, question, ALL)


def test_small_parts_are_put_together(rolled: Path, tables: dict[str, pd.DataFrame]) -> None:
    parts = read_manifest(rolled).of("pairs")
    assert sum(part.rows for part in parts) == len(tables["pairs"])
    assert len(parts) <= 2 * len(tables["pairs"]) / 200 + 1
    assert {path.name for path in (rolled / "pairs").iterdir()} == {part.name for part in parts}
    rows = ask(rolled, ["pairs"], "SELECT step, layer, module, branch, task_i, task_j, cos_before FROM pairs")
    expected = tables["pairs"][rows.columns]
    assert_frame_equal(
        rows.sort_values(list(rows.columns[:6]), ignore_index=True),
        expected.sort_values(list(rows.columns[:6]), ignore_index=True),
        check_dtype=False,
        check_categorical=False,
        rtol=1e-6,
    )
