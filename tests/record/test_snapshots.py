"""Snapshots on disk: the rows are what was measured, their sums over modules too, and both are asked alike."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from infos import INFO

from analysis.reading.database import Selection, ask
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import parts
from ortho_lora.record.manifest import part_files, read_manifest
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.snapshots import METRICS, Snapshot
from ortho_lora.record.tables import SNAPSHOTS_BY_LAYER

SUMS = """
    SELECT "group", sum(product) AS product FROM snapshot_cells
    WHERE step = 4 AND metric = 'adamw' AND target = $target AND task_i = 'a' AND task_j = 'b'
    GROUP BY "group" ORDER BY "group" NULLS FIRST
"""


def snapshot(seed: int, groups: int = 9) -> Snapshot:
    rng = np.random.default_rng(seed)
    blocks = tuple(itertools.product([0, 3], ["query", "value"], ["A", "B"]))
    values = {metric: rng.standard_normal((1 + groups, len(blocks), 3, 3)) for metric in METRICS}
    products = {metric: of + of.swapaxes(2, 3) for metric, of in values.items()}
    held_out = {metric: rng.standard_normal((1 + groups, len(blocks), 2, 3)) for metric in METRICS}
    for of in products.values():
        of[..., 2], of[..., 2, :] = np.nan, np.nan  # too little text
    return Snapshot(
        ("a", "b", "c"), ("a", "c"), blocks, products, held_out, np.array([9, 9, 7]), np.array([9, 9]),
        np.array([18, 18, 7]), np.array([9, 9]), np.array([0.5, 0.25, 1.0]), np.array([0.75, 2.0]), True, True,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        for step in (0, 4):
            recorder.add_snapshot(step, snapshot(step))
            recorder.flush()
    return tmp_path / "x"


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize(
    "selection", [Selection(), Selection(layers=(3,), branches=("B",)), Selection(modules=("value",), layers=(0, 3))]
)
@pytest.mark.parametrize("rolled", [True, False])
def test_any_choice_of_blocks_is_the_sum_of_its_products(run, selection, target, rolled):
    if not rolled:
        for part in read_manifest(run).of(SNAPSHOTS_BY_LAYER):
            (run / SNAPSHOTS_BY_LAYER / part.name).unlink()
    found = ask(run, ["snapshot_cells"], SUMS, selection, {"target": target})
    taken = snapshot(4)
    chosen = [
        (selection.layers is None or layer in selection.layers)
        and (selection.modules is None or module in selection.modules)
        and (selection.branches is None or branch in selection.branches)
        for layer, module, branch in taken.blocks
    ]
    of = taken.held_out if target else taken.products
    np.testing.assert_allclose(found["product"], of["adamw"][:, chosen, 0, 1].sum(1))
    assert found["group"].isna().tolist() == [True, *[False] * 9]


def test_rows_are_a_block_pair_and_group_each(run):
    rows = ask(run, ["snapshots"], "SELECT * FROM snapshots")
    taken = snapshot(0)
    assert len(rows) == 2 * taken.row_count
    assert not rows.duplicated([name for name in rows.columns if name != "product"]).any()
    one = rows.query("step == 0 and metric == 'plain' and not target and layer == 3 and module == 'query'")
    one = one.query("branch == 'B' and task_i == 'a' and task_j == 'b' and group == 5")
    assert one["product"].tolist() == [taken.products["plain"][6, taken.blocks.index((3, "query", "B")), 0, 1]]
    assert rows.query("task_j == 'c' and not target")["product"].isna().all()
    assert not rows.query("target")["product"].isna().any()


def test_a_part_tells_which_of_its_rows_are_of_which_metric_and_of_targets(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_SOUGHT_ROWS", 80)
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(4, snapshot(4))
    file = pq.ParquetFile(part_files(tmp_path / "x", "snapshots")[0])
    groups = [file.metadata.row_group(place) for place in range(file.num_row_groups)]
    assert sum(group.num_rows for group in groups) == snapshot(4).row_count
    for column in ("metric", "target"):
        told = [group.column(file.schema_arrow.names.index(column)).statistics for group in groups]
        alike = [of.min for of in told if of.min == of.max]
        assert len(alike) > len(groups) / 2
        assert len(set(alike)) == 2
    found = ask(tmp_path / "x", ["snapshot_cells"], SUMS, None, {"target": False})
    np.testing.assert_allclose(found["product"], snapshot(4).products["adamw"][:, :, 0, 1].sum(1))


def test_a_step_has_one_snapshot(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(2, snapshot(0))
        with pytest.raises(OrthoLoraError, match="step 2 given, and .* holds steps to 2 already"):
            recorder.add_snapshot(2, snapshot(0))


def test_going_on_drops_later_snapshots_and_their_sums(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(2, snapshot(0))
        recorder.add_snapshot(4, snapshot(1))
        recorder.go_on(4)
        recorder.add_snapshot(4, snapshot(4))
    found = ask(tmp_path / "x", ["snapshot_cells"], SUMS, None, {"target": False})
    np.testing.assert_allclose(found["product"], snapshot(4).products["adamw"][:, :, 0, 1].sum(1))
    parts = read_manifest(tmp_path / "x").of(SNAPSHOTS_BY_LAYER)
    assert (parts[0].first, parts[-1].last) == (2, 4)


def test_what_each_task_took_part_with_is_told(run):
    found = ask(run, ["snapshot_tasks"], "SELECT * FROM snapshot_tasks ORDER BY step, target, task")
    assert found[["target", "task"]].values.tolist() == [
        [False, "a"], [False, "b"], [False, "c"], [True, "a"], [True, "c"]
    ] * 2  # fmt: skip
    assert found["step"].tolist() == [0] * 5 + [4] * 5
    assert found["batches"].tolist() == [18, 18, 7, 9, 9] * 2
    assert found["groups"].tolist() == [9, 9, 7, 9, 9] * 2
    assert found["loss"].tolist() == [0.5, 0.25, 1.0, 0.75, 2.0] * 2
    assert found["exact"].all()
    assert found["of_optimizer"].all()
