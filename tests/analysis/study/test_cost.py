"""Time and memory, and metrics at equal seconds."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analysis.outcomes.scores import MEAN, read_scores
from analysis.study.cost import costs, equal_seconds
from analysis.study.results import boards, read_results
from ortho_lora.record.manifest import read_manifest


def test_costs_are_relative_to_the_baseline(finished):
    found = costs(read_results(finished)).set_index("method")
    assert found["relative"].to_dict() == pytest.approx({"single": 2.0, "joint": 1.0, "ortho-lora": 1.1})
    assert found.loc["single", "total_seconds"] == pytest.approx(12 * 0.2)


def test_at_equal_seconds_the_slow_one_has_come_half_way(finished):
    results = read_results(finished)
    found = equal_seconds(results, boards(results, read_scores(results.reported())))
    found = found.set_index(["method", "task"])
    single, joint = found.loc["single", "movies"], found.loc["joint", "movies"]
    assert (single["seconds"], single["steps"], single["mean"]) == pytest.approx((1.2, 6, 0.6))
    assert joint["steps"] == pytest.approx(12)
    assert single["gain"] == pytest.approx(0.6 - joint["mean"])
    assert found.loc["single", MEAN]["mean"] == pytest.approx(0.6)


def test_evaluations_far_apart_are_not_read_between(maker, studies):
    for path in studies.three_methods(maker).write().glob("*/metrics/*.parquet"):
        rows = pq.read_table(path)
        kept = rows.filter(pc.is_in(rows["step"], pa.array([0, studies.STEPS], pa.int32())))
        pq.write_table(kept, path)
        run = path.parents[1]
        manifest = read_manifest(run)
        parts = [
            part.model_copy(update={"rows": len(kept)}) if part.name == path.name else part
            for part in manifest.of("metrics")
        ]
        (run / "manifest.json").write_text(manifest.replaced("metrics", parts).model_dump_json())
    results = read_results(maker.directory)
    found = equal_seconds(results, boards(results, read_scores(results.reported()))).set_index(["method", "task"])
    assert found.loc["joint", "movies"]["mean"] > 0.7  # it has ended there
    assert found.loc[["single", "ortho-lora"]][["mean", "gain"]].isna().all(axis=None)


def test_without_clocks_there_is_no_cost(maker, studies):
    directory = studies.three_methods(maker).write()
    for part in directory.glob("*/steps/*.parquet"):
        part.unlink()
    assert costs(read_results(directory)).empty
