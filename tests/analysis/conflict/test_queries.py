"""Every query against a pandas computation of the same question."""

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.library.runs import open_run
from analysis.reading import database
from analysis.statistics.series import means, rate_interval
from ortho_lora.record.manifest import Manifest

TASKS = ["movies", "tweets", "trec"]

PAIR = ("movies", "trec")

ALL = Selection()

SELECTIONS = [
    ALL,
    Selection(steps=(10, 60)),
    Selection(layers=(1,), branches=("B",)),
    Selection(modules=("query",), steps=(0, 30)),
]

Tables = dict[str, pd.DataFrame]


def chosen(rows: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    keep = pd.Series(True, index=rows.index)
    if selection.steps:
        keep &= rows["step"].between(*selection.steps)
    for column, values in (
        ("layer", selection.layers),
        ("module", selection.modules),
        ("branch", selection.branches),
    ):
        if values is not None:
            keep &= rows[column].isin(values)
    return rows[keep].copy()


def bins(rows: pd.DataFrame, count: int, gap: int = 2) -> tuple[pd.DataFrame, int]:
    """The rows with `step` replaced by the first step of its bin, and the width of bins."""
    first, last = rows["step"].min(), rows["step"].max()
    width = gap * -(-((last - first) // gap + 1) // count)
    return rows.assign(step=first + (rows["step"] - first) // width * width), width


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, keys: list[str]) -> None:
    """Equal but for the order of rows and the record's 32 bits."""
    columns = list(expected.columns)
    assert_frame_equal(
        found[columns].sort_values(keys, ignore_index=True).astype(dict.fromkeys(keys, object)),
        expected.sort_values(keys, ignore_index=True).astype(dict.fromkeys(keys, object)),
        check_dtype=False,
        rtol=1e-5,
        atol=1e-6,
    )


def test_extent(run: Path) -> None:
    found = queries.extent(run)
    assert (found.first, found.last) == (0, 78)
    assert (found.layers, found.modules, found.tasks) == ((0, 1), ("query", "value"), tuple(TASKS))
    assert found.pairs == (("movies", "tweets"), ("movies", "trec"), ("tweets", "trec"))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_task_matrix(run: Path, tables: Tables, selection: Selection) -> None:
    rows = chosen(tables["pairs"], selection)
    keys = ["branch", "task_i", "task_j"]
    for when in ("before", "after"):
        rows[f"rate_{when}"] = (rows[f"cos_{when}"] < 0).astype(float).where(rows[f"cos_{when}"].notna())
    grouped = rows.groupby(keys)
    expected = grouped[["cos_before", "cos_after", "rate_before", "rate_after"]].mean()
    expected["measured"] = grouped["cos_before"].count()
    expected["measured_after"] = grouped["cos_after"].count()
    by_step = {
        name: rows.groupby([*keys, "step"])[f"{name}_before"].mean().unstack().to_numpy() for name in ("cos", "rate")
    }
    low, high = means(by_step["cos"]).interval()
    expected["cos_low"], expected["cos_high"] = np.maximum(low, -1.0), np.minimum(high, 1.0)
    expected["rate_low"], expected["rate_high"] = rate_interval(by_step["rate"])
    assert_same(queries.task_matrix(run, selection), expected.reset_index(), keys)


def test_the_cosine_is_of_gradients_of_length_1_and_of_their_halves(run: Path, tables: Tables) -> None:
    found = queries.task_matrix(run, ALL).set_index(["branch", "task_i", "task_j"])
    norms = tables["norms"].set_index(["step", "layer", "module", "branch", "task"]).sort_index()
    known = found["cosine"].dropna()
    assert len(known)
    for (branch, one, other), cosine in known.items():
        pairs = tables["pairs"]
        rows = pairs[(pairs["branch"] == branch) & (pairs["task_i"] == one) & (pairs["task_j"] == other)]
        blocks = rows.set_index(["step", "layer", "module", "branch"])["cos_before"]
        blocks = blocks[blocks.notna()]
        i, j = (norms.xs(task, level="task").loc[blocks.index] for task in (one, other))
        product = (blocks * i["norm_before"] * j["norm_before"]).groupby("step").sum()
        square = [(of["norm_before"] ** 2).groupby("step").sum() for of in (i, j)]
        half = [of["half_product"].groupby("step").sum() for of in (i, j)]
        r = [(h / (2 * s - h)).mean() for h, s in zip(half, square, strict=True)]
        batch = (product / np.sqrt(square[0] * square[1])).mean()
        expected = batch / np.sqrt(np.prod([2 * one / (1 + one) for one in r]))
        assert cosine == pytest.approx(np.clip(expected, -1, 1), rel=1e-4)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_noise(run: Path, tables: Tables, selection: Selection) -> None:
    rows = chosen(tables["norms"], selection)
    rows["whole"] = 2 * rows["norm_before"] ** 2 - rows["half_product"]
    grouped = rows.groupby(["branch", "task"])
    expected = (grouped["half_product"].sum() / grouped["whole"].sum()).rename("same_task_cosine").to_frame()
    expected["measured"] = grouped["half_product"].count()
    found = queries.noise(run, selection)
    assert_same(found, expected.reset_index(), ["branch", "task"])
    by_step = rows.groupby(["branch", "task", "step"])["half_product"].sum().groupby(["branch", "task"]).mean()
    signal = found.set_index(["branch", "task"])["signal"].dropna()
    assert len(signal) >= 1
    np.testing.assert_allclose(signal, by_step.loc[signal.index], rtol=1e-5)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("count", [1, 7, 120])
def test_layer_step(run: Path, tables: Tables, selection: Selection, count: int) -> None:
    rows = chosen(tables["pairs"], selection).query("task_i == @PAIR[0] and task_j == @PAIR[1]")
    binned, width = bins(rows, count)
    grouped = binned.groupby(["branch", "layer", "step"])
    expected = grouped[["cos_before", "cos_after"]].mean()
    expected["measured"] = grouped["cos_before"].count()
    expected = expected.reset_index()
    expected["step_end"] = np.minimum(expected["step"] + width - 1, rows["step"].max())
    found = queries.layer_step(run, PAIR, selection, bins=count)
    assert found["step"].nunique() <= count
    assert_same(found, expected, ["branch", "layer", "step"])
    assert_frame_equal(found, queries.layer_step(run, PAIR[::-1], selection, bins=count))


def test_pair_over_steps(run: Path, tables: Tables) -> None:
    rows, _ = bins(tables["pairs"].query("task_i == @PAIR[0] and task_j == @PAIR[1]"), 9)
    grouped = rows.groupby(["branch", "step"])
    expected = grouped[["cos_before", "cos_after"]].mean()
    expected["low"], expected["high"] = grouped["cos_before"].min(), grouped["cos_before"].max()
    assert_same(queries.pair_over_steps(run, PAIR, ALL, bins=9), expected.reset_index(), ["branch", "step"])


def test_where_a_pair_agrees_is_the_mean_of_batches_without_a_snapshot(run: Path, tables: Tables) -> None:
    rows = tables["pairs"].query("task_i == @PAIR[0] and task_j == @PAIR[1]")
    expected = rows.groupby(["branch", "layer"])["cos_before"].mean().reset_index(name="cosine")
    found = queries.layer_by_layer(run, PAIR)
    assert_same(found, expected, ["branch", "layer"])
    assert found["low"].isna().all()
    assert not found["clear"].any()


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("key", ["step", "layer"])
def test_projection_over_steps_and_by_layer(run: Path, tables: Tables, selection: Selection, key: str) -> None:
    pairs, norms = chosen(tables["pairs"], selection), chosen(tables["norms"], selection)
    if key == "step":
        (pairs, _), (norms, _) = bins(pairs, 6), bins(norms, 6)
        found = queries.projection_over_steps(run, selection, bins=6)
    else:
        found = queries.projection_by_layer(run, selection)
    measured = pairs.dropna(subset="cos_before")
    directed = measured[["projected_ij", "projected_ji"]].astype(float).mean(axis=1)
    live = norms[norms["norm_before"] > 0]
    removed = 1 - live["norm_after"] / live["norm_before"]
    expected = pd.concat(
        [
            directed.groupby([measured["branch"], measured[key]]).mean().rename("frequency"),
            removed.groupby([live["branch"], live[key]]).mean().rename("removed"),
        ],
        axis=1,
    )
    assert_same(found, expected.reset_index(), ["branch", key])


def test_projection_by_pair(run: Path, tables: Tables) -> None:
    rows = tables["pairs"]
    there = rows.rename(columns={"task_i": "task", "task_j": "against", "projected_ij": "projected"})
    back = rows.rename(columns={"task_j": "task", "task_i": "against", "projected_ji": "projected"})
    columns = ["branch", "task", "against", "cos_before", "projected"]
    directed = pd.concat([there[columns], back[columns]]).dropna(subset="cos_before")
    keys = ["branch", "task", "against"]
    grouped = directed.groupby(keys)
    expected = grouped["projected"].mean().rename("frequency").astype(float).to_frame()
    expected["removed"] = -directed[directed["projected"].astype(bool)].groupby(keys)["cos_before"].mean()
    expected["measured"] = grouped["cos_before"].count()
    found = queries.projection_by_pair(run, ALL)
    assert_same(found, expected.reset_index(), keys)
    assert found["task"].tolist() == [task for task in TASKS for _ in range(2)] * 2  # as configured, not as spelled


def test_weights(run: Path, tables: Tables) -> None:
    rows, _ = bins(tables["norms"], 5)
    expected = rows.groupby(["branch", "task", "step"])["weight"].mean().reset_index()
    assert_same(queries.weights(run, ALL, bins=5), expected, ["branch", "task", "step"])


def test_metrics_and_losses(run: Path, tables: Tables) -> None:
    columns = ["run", "step", "split", "task", "metric", "value", "examples"]
    found = queries.metrics([run])
    assert_same(found, tables["metrics"].assign(run="first")[columns], ["step", "task", "metric"])
    rows, _ = bins(tables["steps"], 8, gap=1)
    expected = rows.groupby(["task", "step"])[["loss", "learning_rate"]].mean().reset_index().assign(run="first")
    assert_same(queries.losses([run], bins=8), expected, ["task", "step"])
    assert queries.losses([run], bins=8)["task"].drop_duplicates().tolist() == TASKS


def test_nothing_measured_stays_null(run: Path) -> None:
    start = Selection(steps=(0, 0))  # where B is zero, and so is the gradient of every A
    matrix = queries.task_matrix(run, start).set_index("branch")
    assert matrix.loc["A", ["cos_before", "cos_after", "rate_before", "rate_after", "cosine"]].isna().all(axis=None)
    assert (matrix.loc["A", ["measured", "measured_after"]] == 0).all(axis=None)
    assert matrix.loc["B", "cos_before"].notna().all()
    assert matrix.loc["B", ["cos_low", "rate_high", "cosine", "cosine_low"]].isna().all(axis=None)  # of one step
    assert queries.layer_step(run, PAIR, start).query("branch == 'A'")["cos_before"].isna().all()
    steps = queries.projection_over_steps(run, start).set_index("branch")
    assert steps.loc["A", ["frequency", "removed"]].isna().all()
    assert queries.noise(run, start)["signal"].isna().all()
    directed = queries.projection_by_pair(run, start).set_index("branch")
    assert directed.loc["A", ["frequency", "removed"]].isna().all(axis=None)


GRADIENT_QUERIES = [
    lambda run, selection: queries.task_matrix(run, selection),
    lambda run, selection: queries.noise(run, selection),
    lambda run, selection: queries.layer_step(run, PAIR, selection),
    lambda run, selection: queries.pair_over_steps(run, PAIR, selection),
    lambda run, selection: queries.projection_over_steps(run, selection),
    lambda run, selection: queries.projection_by_pair(run, selection),
    lambda run, selection: queries.projection_by_layer(run, selection),
    lambda run, selection: queries.weights(run, selection),
]


@pytest.mark.parametrize("query", GRADIENT_QUERIES)
@pytest.mark.parametrize("selection", [Selection(layers=()), Selection(steps=(500, 600)), Selection(branches=("C",))])
def test_an_empty_choice_has_the_columns_and_no_rows(run: Path, query, selection: Selection) -> None:
    assert query(run, selection).empty
    assert query(run, selection).columns.tolist() == query(run, ALL).columns.tolist()


@pytest.mark.parametrize("query", GRADIENT_QUERIES)
def test_a_run_without_parts(run: Path, records: ModuleType, tmp_path: Path, query) -> None:
    info = records.run_info("new", [records.task_info(name) for name in TASKS])
    new = records.write_run(tmp_path / "new", info, records.status("running"), {})
    assert query(new, ALL).empty
    assert query(new, ALL).columns.tolist() == query(run, ALL).columns.tolist()
    assert queries.extent(new) == queries.Extent(None, None)
    assert queries.metrics([new]).columns.tolist() == queries.metrics([run]).columns.tolist()
    assert queries.losses([new]).columns.tolist() == queries.losses([run]).columns.tolist()


def test_a_run_of_separate_adapters_has_norms_and_no_pairs(records: ModuleType, tables: Tables, tmp_path: Path) -> None:
    info = records.run_info("single", [records.task_info(name) for name in TASKS])
    single = records.write_run(tmp_path / "single", info, records.status(), {"norms": tables["norms"]})
    assert queries.task_matrix(single, ALL).empty
    assert queries.extent(single).pairs == ()
    assert len(queries.noise(single, ALL)) == 6
    steps = queries.projection_over_steps(single, ALL)
    assert steps["frequency"].isna().all()
    assert steps["removed"].notna().any()


def test_runs_are_stacked_in_the_order_given(run: Path, records: ModuleType, tables: Tables, tmp_path: Path) -> None:
    info = records.run_info("a-later", [records.task_info(name) for name in TASKS])
    other = records.write_run(tmp_path / "a-later", info, records.status(), {"steps": tables["steps"]})
    assert queries.losses([run, other])["run"].drop_duplicates().tolist() == ["first", "a-later"]
    assert queries.metrics([run, other])["run"].drop_duplicates().tolist() == ["first"]


def test_values_are_parameters_not_sql(run: Path) -> None:
    hostile = "x' OR '1'='1"
    assert queries.layer_step(run, (hostile, "trec"), Selection(modules=(hostile,))).empty
    assert queries.layer_step(run, (hostile, "trec"), ALL).empty


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_a_damaged_part_is_named_and_the_rest_is_shown(
    records: ModuleType, tables: Tables, tmp_path: Path, damage: str
) -> None:
    info = records.run_info("broken", [records.task_info(name) for name in TASKS])
    broken = records.write_run(tmp_path / "broken", info, records.status(), {"pairs": tables["pairs"]})
    part = broken / "pairs" / "part-000001.parquet"
    rows = len(pd.read_parquet(part))
    assert open_run(tmp_path, "broken").problem is None
    if damage == "missing":
        part.unlink()
    elif damage == "torn":
        part.write_bytes(part.read_bytes()[:-20])
    else:
        pd.DataFrame({"step": [1]}).to_parquet(part)
    (broken / "pairs" / "notes.txt").write_text("mine")
    problem = str(open_run(tmp_path, "broken").problem)
    named, foreign = problem.splitlines()
    assert named.startswith(f"{part}: ")
    assert named.endswith("so its rows are left out.")
    assert foreign == f"{broken / 'pairs' / 'notes.txt'}: not a part of the record, so it is left out."
    asked = database.ask(broken, ["pairs"], "SELECT count(layer) AS n FROM pairs")
    assert asked["n"].item() == len(tables["pairs"]) - rows


def test_parts_that_are_replaced_while_they_are_asked_are_asked_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run publishes other parts, and then removes the ones that this reader has just looked up."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    plain = database.counted

    def replace(path: Path) -> Manifest:
        manifest: Manifest = plain(path)
        first, *others = manifest.of("pairs")
        if first.name != "part-000009.parquet":
            moved = first.model_copy(update={"name": "part-000009.parquet"})
            (copy / "pairs" / first.name).rename(copy / "pairs" / moved.name)
            (copy / "manifest.json").write_text(manifest.replaced("pairs", [moved, *others]).model_dump_json())
        return manifest

    monkeypatch.setattr(database, "counted", replace)
    asked = queries.projection_by_pair(copy, ALL)
    monkeypatch.undo()
    assert_frame_equal(asked, queries.projection_by_pair(run, ALL))


def test_norms_over_steps_by_hand(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    row = queries.norms_over_steps(run, ALL).query("branch == 'B' and task == 'trec' and step == 6").iloc[0]
    norms = tables["norms"].query("branch == 'B' and task == 'trec' and step == 6")
    assert row["norm_before"] == pytest.approx(norms["norm_before"].mean(), rel=1e-6)
    assert row["norm_after"] == pytest.approx(norms["norm_after"].mean(), rel=1e-6)
    assert row["norm_high"] == pytest.approx(norms["norm_before"].max(), rel=1e-6)


def test_the_worst_blocks_come_first(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    found = queries.worst_blocks(run, ALL, 5)
    keys = ["branch", "layer", "module", "task_i", "task_j"]
    means = tables["pairs"].groupby(keys)["cos_before"].mean().sort_values()
    assert list(found[keys].itertuples(index=False, name=None)) == list(means.index[:5])
    assert found["cos"].to_numpy() == pytest.approx(means.to_numpy()[:5], rel=1e-5)
    assert found["q"].between(0, 1).all()


def test_one_step_in_full(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    found = queries.one_step(run, 6)
    pairs = tables["pairs"].query("step == 6")
    assert len(found) == len(pairs)
    keys = ["layer", "module", "branch", "task_i", "task_j"]
    merged = found.merge(pairs, on=keys, suffixes=("", "_true"))
    for name in ("cos_before", "cos_after", "projected_ij", "projected_ji"):
        assert merged[name].to_numpy(float) == pytest.approx(merged[f"{name}_true"].to_numpy(float), rel=1e-6)
    norms = tables["norms"].query("step == 6").set_index(["layer", "module", "branch", "task"])["norm_before"]
    row = found.iloc[3]
    where = (row["layer"], row["module"], row["branch"])
    assert row["norm_i"] == pytest.approx(norms[(*where, row["task_i"])], rel=1e-6)
    one, other = row["norm_i"], row["norm_j"]
    assert row["similarity"] == pytest.approx(2 * one * other / (one**2 + other**2), rel=1e-6)
    assert queries.one_step(run, 7).empty, "only every second step is recorded"


@pytest.mark.parametrize("selection", SELECTIONS)
def test_module_layer_and_steps(run: Path, tables: Tables, selection: Selection) -> None:
    rows = chosen(tables["pairs"], selection).query("task_i == @PAIR[0] and task_j == @PAIR[1]")
    for keys, binned, found in (
        (["branch", "layer", "module"], rows, queries.module_layer(run, PAIR, selection)),
        (
            ["branch", "module", "layer", "step"],
            bins(rows, 5)[0],
            queries.module_layer_step(run, PAIR, selection, bins=5),
        ),
    ):
        grouped = binned.groupby(keys)
        expected = grouped[["cos_before", "cos_after"]].mean()
        expected["low"], expected["high"] = grouped["cos_before"].min(), grouped["cos_before"].max()
        expected["measured"] = grouped["cos_before"].count()
        assert_same(found, expected.reset_index(), keys)


def test_worst_blocks_are_the_lowest_of_all(run: Path) -> None:
    every = queries.blocks(run, ALL)
    assert len(every) == 2 * 2 * 2 * 3
    assert queries.worst_blocks(run, ALL, 3)["cos"].tolist() == sorted(every["cos"])[:3]


def test_change_has_the_interval_of_steps(run: Path, tables: Tables) -> None:
    keys = ["branch", "task_i", "task_j"]
    rows = tables["pairs"].assign(change=lambda rows: rows["cos_after"] - rows["cos_before"])
    by_step = rows.groupby([*keys, "step"])["change"].mean().unstack()
    low, high = means(by_step.to_numpy()).interval()
    expected = by_step.index.to_frame(index=False).assign(cos_change_low=low, cos_change_high=high)
    assert_same(queries.task_matrix(run, ALL), expected, keys)
