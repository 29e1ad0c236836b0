from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analysis.diagnosis.advice import advise
from analysis.outcomes.beside import board_of, outcomes
from analysis.study import comparison
from ortho_lora.record.schema import ProbeInfo, read_run

TASKS = ("trec", "stars")


def made(
    records: ModuleType,
    runs_dir: Path,
    method: str,
    seed: int,
    values: tuple[float, float],
    right: np.ndarray | None = None,
    **config: object,
) -> Path:
    """A run with these values; `right`: which examples of `trec` it got right."""
    name = f"{method}-{seed}-{len(config)}"
    by_luck = {"majority": {"validation": {"accuracy": 0.5 + 0.01 * seed}}}  # of the examples that the seed drew
    tasks = [
        records.task_info("trec").model_copy(update=by_luck),
        records.task_info("stars", metric="rmse"),
    ]
    info = records.run_info(
        name, tasks, method=method, seed=seed, config={"method": method, "seed": seed, "rank": 8} | config
    )
    rows = [
        {"step": step, "split": "validation", "task": task, "metric": metric, "value": value * scale, "examples": 50}
        for step, scale in ((0, 0.5), (40, 1.0))
        for task, metric, value in zip(TASKS, ("accuracy", "rmse"), values, strict=True)
    ]
    tables = {"metrics": pd.DataFrame(rows)}
    if right is not None:
        said = {"step": 40, "split": "validation", "task": "trec", "example": np.arange(len(right)), "target": 0}
        tables["predictions"] = pd.DataFrame(said | {"prediction": (~right).astype(int)})
    path: Path = records.write_run(runs_dir / name, info, records.status(), tables)
    return path


def test_methods_are_compared_seed_by_seed(records: ModuleType, tmp_path: Path) -> None:
    for seed, luck in enumerate((0.0, 0.1, 0.2)):
        made(records, tmp_path, "joint", seed, (0.5 + luck, 1.0))
        made(records, tmp_path, "single", seed, (0.6 + luck + 0.001 * seed, 0.8 + 0.001 * seed))
    own = made(records, tmp_path, "ortho-lora", 0, (0.4, 1.0))
    made(records, tmp_path, "ortho-lora", 7, (0.9, 1.0))  # without a joint run of its seed
    made(records, tmp_path, "pcgrad", 0, (0.9, 0.1), rank=16)  # another adapter
    found = {(one.method, one.task): one for one in outcomes(own)}
    assert list(found) == [(method, task) for method in ("single", "ortho-lora") for task in TASKS]
    single = found["single", "trec"]
    assert single.difference == pytest.approx(0.101)
    assert single.seeds == (0, 1, 2)
    assert single.clear
    assert single.low == pytest.approx(0.101 - 4.303 * 0.001 / np.sqrt(3), abs=1e-5)
    assert found["single", "stars"].difference == pytest.approx(0.199), "a lower error is better"
    projected = found["ortho-lora", "trec"]
    assert (projected.difference, projected.low, projected.seeds) == (pytest.approx(-0.1), None, (0,))
    assert not projected.clear


def test_the_interval_respects_that_examples_are_few(records: ModuleType, tmp_path: Path) -> None:
    """Seeds that agree to the last digit say nothing of the examples: 30 right answers of 50 against 25 others."""
    right = {"joint": np.arange(50) < 25, "single": np.arange(50) >= 20}
    for method, hits in right.items():
        runs = [made(records, tmp_path, method, seed, (hits.mean(), 1.0), hits) for seed in range(3)]
    found = {(one.method, one.task): one for one in outcomes(runs[0])}
    single = found["single", "trec"]
    assert single.difference == pytest.approx(0.1)
    differences = right["single"].astype(float) - right["joint"]
    half_width = 1.96 * differences.std() / np.sqrt(50)  # of a mean over 50 examples, drawn anew
    assert single.low == pytest.approx(0.1 - half_width, abs=0.02)
    assert single.high == pytest.approx(0.1 + half_width, abs=0.02)
    assert not single.clear


def test_another_order_is_another_method(records: ModuleType, tmp_path: Path) -> None:
    made(records, tmp_path, "joint", 0, (0.5, 1.0))
    own = made(records, tmp_path, "ortho-lora", 0, (0.6, 1.0), order="random")
    made(records, tmp_path, "ortho-lora", 0, (0.7, 1.0), order="mean", rule="pcgrad")
    found = {one.method: one.difference for one in outcomes(own) if one.task == "trec"}
    assert found == {"ortho-lora": pytest.approx(0.1), "ortho-lora, mean order": pytest.approx(0.2)}


def test_a_record_that_counts_what_was_left_out_is_compared_with_an_older_one(
    records: ModuleType, tmp_path: Path
) -> None:
    made(records, tmp_path, "joint", 0, (0.5, 1.0))
    own = made(records, tmp_path, "ortho-lora", 0, (0.6, 1.0))
    info = read_run(own)
    task = info.tasks[0].model_copy(update={"dropped": {"train": {"repeated": 3}}})
    (own / "run.json").write_text(info.model_copy(update={"tasks": (task, *info.tasks[1:])}).model_dump_json())
    assert read_run(own).tasks[0].left_out == "3 repeated of train"
    assert {one.method for one in outcomes(own)} == {"ortho-lora"}


def test_a_metric_that_is_no_number_is_not_compared(records: ModuleType, tmp_path: Path) -> None:
    made(records, tmp_path, "joint", 0, (0.5, 1.0))
    own = made(records, tmp_path, "ortho-lora", 0, (np.nan, 0.9))
    assert [one.task for one in outcomes(own)] == ["stars"]


def test_a_probe_is_neither_compared_nor_compared_with(records: ModuleType, tmp_path: Path) -> None:
    made(records, tmp_path, "joint", 0, (0.5, 1.0))
    own = made(records, tmp_path, "ortho-lora", 0, (0.4, 1.0))
    before = outcomes(own)
    assert before
    for number, values in enumerate(((0.9, 0.1), (0.8, 0.2))):
        probe = made(records, tmp_path / f"{number}", "ortho-lora", number, values)
        info = read_run(probe).model_copy(update={"probe": ProbeInfo(run="joint-0-3", step=40, seed=0)})
        probe = probe.rename(tmp_path / f"probe-{number}")
        (probe / "run.json").write_text(info.model_dump_json())
        assert outcomes(probe) == ()
    assert outcomes(own) == before


def test_without_runs_beside_it_there_is_no_outcome(records: ModuleType, tmp_path: Path) -> None:
    assert outcomes(made(records, tmp_path, "ortho-lora", 0, (0.4, 1.0))) == ()


def test_runs_beside_one_tell_what_of_a_gap_is_recovered_as_a_study_does(records: ModuleType, tmp_path: Path) -> None:
    def in_words(seeds: int) -> pd.Series:
        for seed in range(seeds):
            for method, value in (("joint", 0.5), ("single", 0.7 + 0.002 * seed), ("ortho-lora", 0.6)):
                run = made(records, tmp_path / f"{seeds}", method, seed, (value, 1.0))
        return comparison.recovery([board_of(run)]).set_index("task")["in words"]

    assert set(in_words(2)) == {"unknown: fewer than three seeds do not tell whether there is a gap to recover"}
    words = in_words(3)
    # 0.1 / 0.202; the gap is known to 4.303 * 0.002 / sqrt(3), the gain exactly.
    assert words["trec"] == "recovers 50% of the gap, 95% interval 48% to 51%"
    assert words["stars"] == "no gap to recover: single and joint do not differ beyond noise"
    assert len(words) == 2  # no mean of a metric that should rise and one that should fall


def test_the_summary_says_whether_it_showed(records: ModuleType, tmp_path: Path) -> None:
    info = records.run_info("run", [])
    assert "not known: there is no finished" in advise(info, [], [])[0]
    made(records, tmp_path, "joint", 0, (0.5, 1.0))
    own = made(records, tmp_path, "ortho-lora", 0, (0.4, 1.0))
    assert "fewer than three seeds: their differences may be chance" in advise(info, [], outcomes(own))[0]
    for seed in (1, 2):
        made(records, tmp_path, "joint", seed, (0.5, 1.0))
        made(records, tmp_path, "ortho-lora", seed, (0.4 + 0.001 * seed, 1.0))
    told = advise(info, [], outcomes(own))[0]
    assert "trec is worse with ortho-lora than with joint (accuracy -0.099" in told
    assert "by chance" not in told
    for seed in range(3):
        made(records, tmp_path, "single", seed, (0.5, 1.0))
    assert "Of 4 such intervals about 0.2 exclude 0 by chance." in advise(info, [], outcomes(own))[0]
