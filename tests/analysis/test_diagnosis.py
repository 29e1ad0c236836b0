import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import signal
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.advice import groups
from analysis.agreement import agreement, by_window
from analysis.diagnosis import diagnose, judge, overall
from analysis.sentences import undecided
from analysis.verdicts import Harm, Pair
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import ProbeInfo

WIDTH = 12


def directions(cosine: float) -> np.ndarray:
    """Three tasks' true gradients: the first two with this cosine, the third unrelated to both."""
    true = np.zeros((3, WIDTH))
    true[0, 0], true[1, :2], true[2, 2] = 1, (cosine, np.sqrt(1 - cosine**2)), 1
    return true


def made(
    records: ModuleType,
    path: Path,
    true: np.ndarray,
    *,
    steps: int = 60,
    noise: float = 1.0,
    seed: int = 0,
    twins: Mapping[str, str] | None = None,
    probe: ProbeInfo | None = None,
) -> Path:
    names = [f"task{index}" for index in range(len(true))]
    halves = records.noisy_halves(true, (steps, 2, 2, 2), noise, np.random.default_rng(seed))
    tables = records.gradient_tables(halves, names)
    tasks = [records.task_info(name, twin_of=(twins or {}).get(name)) for name in names]
    info = records.run_info(path.name, tasks, probe=probe)
    made: Path = records.write_run(path, info, records.status(), tables)
    return made


def test_a_planted_conflict(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", directions(-0.6), noise=0.35))
    pair = found.pairs[0]
    assert pair.verdict == "conflict"
    assert [other.verdict for other in found.pairs[1:]] == ["indistinguishable from noise"] * 2
    for branch in pair.branches:
        assert branch.corrected_low is not None
        assert branch.corrected_high is not None
        assert branch.corrected_low < -0.6 < branch.corrected_high
        assert branch.cosine is not None
        assert -0.6 < branch.cosine < 0, "noise pulls raw cosines to zero"
        assert branch.rate_low is not None
        assert branch.rate_low > 0.5
        assert (branch.blocks, branch.blocks_clear, branch.until) == (4, 4, 59)
        assert branch.conflict_rate_after is not None
        assert branch.conflict_rate is not None
        assert branch.conflict_rate_after < branch.conflict_rate
        assert branch.projected_i == pytest.approx(branch.conflict_rate, abs=0.2)
    assert pair.whole.enough is False
    assert pair.whole.magnitude_similarity == pytest.approx(1, abs=0.05)
    assert found.suggestions[0].kind == "separate adapters"
    assert not any({"task0", "task1"} <= set(group) for group in found.suggestions[0].groups)
    assert "task0 – task1" in found.summary


def test_a_planted_alignment(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", directions(0.6)))
    assert found.pairs[0].verdict == "aligned"
    assert "do not conflict" in found.summary
    assert [suggestion.kind for suggestion in found.suggestions] == ["nothing"]


def test_pure_noise_is_called_noise(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", np.zeros((3, WIDTH))))
    assert {pair.verdict for pair in found.pairs} == {"indistinguishable from noise"}
    assert all(branch.corrected is None for pair in found.pairs for branch in pair.branches)
    assert "do not conflict" in found.summary
    assert [suggestion.kind for suggestion in found.suggestions] == ["nothing"]


def test_few_steps_are_not_enough(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", directions(-0.9), steps=7))
    assert {pair.verdict for pair in found.pairs} == {"not enough data"}
    assert [suggestion.kind for suggestion in found.suggestions] == ["more data"]
    assert all(branch.p_holm is None for pair in found.pairs for branch in pair.branches)


def test_a_twin_is_judged_by_its_raw_cosine(records: ModuleType, tmp_path: Path) -> None:
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.3, twins={"task1": "task0"})
    pair = diagnose(run).pairs[0]
    assert (pair.verdict, pair.shares_texts) == ("conflict", True)
    assert all(branch.corrected is None for branch in pair.branches)
    text = CliRunner().invoke(app, ["diagnose", str(run)]).stdout
    assert "draw the same texts, so nothing needs correcting" in " ".join(text.split())


def test_a_conflict_of_some_steps_and_layers_is_placed(records: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    halves = 0.4 * rng.standard_normal((120, 2, 2, 2, 2, 2, WIDTH))
    halves[60:, 1, :, :, 0, :, 0] += 1
    halves[60:, 1, :, :, 1, :, 0] -= 1
    names = ["one", "other"]
    info = records.run_info("run", [records.task_info(name) for name in names])
    run = records.write_run(tmp_path / "run", info, records.status(), records.gradient_tables(halves, names))
    for branch in diagnose(run).pairs[0].branches:
        assert branch.verdict == "conflict"
        assert {place.layer for place in branch.places} == {1}
        assert (branch.since, branch.until) == (60, 119)


def test_uneven_magnitudes_meet_the_condition_and_ask_for_weights(records: ModuleType, tmp_path: Path) -> None:
    true = directions(-0.6)
    true[0] *= 10
    found = diagnose(made(records, tmp_path / "run", true, noise=0.5))
    whole = found.pairs[0].whole
    assert whole.enough is True
    assert whole.norm_ratio == pytest.approx(10, rel=0.1)
    assert whole.magnitude_similarity == pytest.approx(2 * 10 / (1 + 100), rel=0.1)
    assert "loss weights" in [suggestion.kind for suggestion in found.suggestions]


def noise_steps(rng: np.random.Generator, runs: int, steps: int, tasks: int, correlation: float) -> pd.DataFrame:
    """The rows that `pair_steps` makes of gradients that are nothing but noise, as far as verdicts need them.

    Tasks are named run/task, so that many runs are asked at once.
    """
    drawn = rng.standard_normal((runs, 2, 4, tasks, WIDTH, steps + 40), dtype=np.float32)
    drawn = signal.lfilter([1], np.float32([1, -correlation]), drawn, axis=-1)[..., 40:]
    unit = drawn / np.linalg.norm(drawn, axis=-2, keepdims=True)
    i, j = np.triu_indices(tasks, 1)
    cos = np.stack([(unit[..., a, :, :] * unit[..., b, :, :]).sum(axis=-2) for a, b in zip(i, j, strict=True)])
    pair, run, branch, step = (axis.ravel() for axis in np.indices((len(i), runs, 2, steps)))
    names = np.array([[f"{r}/{task}" for task in range(tasks)] for r in range(runs)])
    keys = {"branch": np.array(["A", "B"])[branch], "task_i": names[run, i[pair]], "task_j": names[run, j[pair]]}
    values = {"cos": cos.mean(axis=3).ravel().astype(float), "rate": (cos < 0).mean(axis=3).ravel()}
    unknown = dict.fromkeys(("product", "half_i", "half_j", "square_i", "square_j"), np.nan)
    return pd.DataFrame(keys | {"step": step} | values | unknown)


@pytest.mark.parametrize(("steps", "correlation"), [(40, 0.0), (100, 0.6)])
def test_noise_is_rarely_called_anything_else(records: ModuleType, steps: int, correlation: float) -> None:
    runs, info = 400, records.run_info("noise", [])
    rows = noise_steps(np.random.default_rng(0), runs, steps, 4, correlation)
    whole, timed = agreement(rows, info), by_window(rows, info, steps // 20)
    by_run = [frame.groupby(frame["task_i"].str.split("/").str[0]) for frame in (whole, timed)]
    wrong = sum(
        judge(frame, by_run[1].get_group(run))["verdict"].isin(["conflict", "aligned"]).any()
        for run, frame in by_run[0]
    )
    assert len(by_run[0]) == runs
    assert wrong / runs <= 0.05


def test_the_verdict_on_a_pair_is_the_worst_of_its_branches() -> None:
    noise, short = "indistinguishable from noise", "not enough data"
    assert overall([noise, "conflict"]) == "conflict"
    assert overall(["aligned", noise]) == "aligned"
    assert overall([short, noise]) == noise
    assert overall([short, short]) == short


def test_groups_split_what_conflicts_only() -> None:
    def pair(one: str, other: str, verdict: Any, cosine: float) -> Pair:
        unknown = dict.fromkeys(Harm.__dataclass_fields__)
        return Pair(one, other, verdict, False, Harm(**(unknown | {"cosine": cosine, "from_corrected": False})), ())

    noise: Any = "indistinguishable from noise"
    pairs = [pair("a", "b", "conflict", -0.5), pair("a", "c", "aligned", 0.5), pair("b", "c", noise, -0.4)]
    assert groups("abc", pairs) == (("a", "c"), ("b",))
    assert groups("abc", [pair("a", "b", noise, -0.5)]) == (("a", "b", "c"),)


def test_json_and_text(records: ModuleType, tmp_path: Path) -> None:
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.35)
    result = CliRunner().invoke(app, ["diagnose", str(run), str(run), "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert first == second
    assert [pair["verdict"] for pair in first["pairs"]] == ["conflict"] + ["indistinguishable from noise"] * 2
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    for words in (
        "1 of 3 pairs conflict",
        "chance gives 50%",
        "Where: clear in 4 of 4",
        "PCGrad's own condition",
        "Theorem 2",
    ):
        assert words in text


def test_a_probe_is_told_as_one(records: ModuleType, tmp_path: Path) -> None:
    place = ProbeInfo(run="mine", step=100, seed=0)
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.35, probe=place)
    found = diagnose(run)
    assert found.probe == "at step 100 of run mine"
    assert all(len(branch.windows) == 1 for pair in found.pairs for branch in pair.branches)
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    assert "run: probe at step 100 of run mine, ortho-lora, seed 7, 60 batches recorded" in text
    assert "Probe at step 100 of run mine: 1 of 3 pairs conflict by more than noise: task0 – task1. A probe" in text
    assert "When:" not in text
    text = " ".join(CliRunner().invoke(app, ["summary", str(run)]).stdout.split())
    assert "run: finished, probe at step 100 of run mine, batch 40 of 40, ortho-lora" in text
    assert "Final validation metrics" not in text


def test_a_branch_without_gradients_is_explained(records: ModuleType, tmp_path: Path) -> None:
    halves = records.noisy_halves(directions(-0.6), (20, 1, 1, 2), 0.5, np.random.default_rng(0))
    halves[:, :, :, 0] = 0
    names = ["one", "other", "third"]
    info = records.run_info("run", [records.task_info(name) for name in names], probe=ProbeInfo(seed=0))
    run = records.write_run(tmp_path / "run", info, records.status(), records.gradient_tables(halves, names))
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    assert "probe at the start" in text
    assert "Branch A has no cosine where the gradients are zero, as those of A are wherever B = 0" in text


def test_undecided_pairs_say_how_many_batches_they_need(records: ModuleType, tmp_path: Path) -> None:
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.35)
    found = diagnose(run)
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    assert "python -m ortho_lora probe RUN_DIR --batches N" in text
    listed = undecided(found.pairs)[1:-2]
    assert [line.split(":")[0] for line in listed] == ["  task0 – task2", "  task1 – task2"]
    for pair, line in zip(found.pairs[1:], listed, strict=True):
        for branch in pair.branches:
            # The error falls with the root of the number of steps.
            assert branch.steps_to_exclude_zero is not None
            assert branch.cosine is not None
            assert branch.cosine_low is not None
            assert branch.cosine_high is not None
            half_width = (branch.cosine_high - branch.cosine_low) / 2
            steps = branch.steps + branch.steps_to_exclude_zero
            assert half_width * (branch.steps / steps) ** 0.5 == pytest.approx(abs(branch.cosine), rel=0.05)
            assert f"{branch.steps_to_exclude_zero:,} on branch {branch.branch}" in line or "more than 10,000" in line
    assert undecided([pair for pair in found.pairs if pair.verdict == "conflict"]) == []


def test_names_are_not_markup(records: ModuleType, tmp_path: Path) -> None:
    names = ["[bold]x[/bold]", "[/red]", "\x1b[31mred"]
    halves = records.noisy_halves(directions(-0.6), (40, 1, 1, 2), 0.5, np.random.default_rng(0))
    info = records.run_info("run", [records.task_info(name) for name in names])
    run = records.write_run(tmp_path / "run", info, records.status(), records.gradient_tables(halves, names))
    for command in ("summary", "diagnose"):
        result = CliRunner().invoke(app, [command, str(run)])
        assert result.exit_code == 0, result.output
        assert "[bold]x[/bold]" in result.stdout
        assert "[/red]" in result.stdout
        assert "\x1b[31mred" not in result.stdout


def test_a_run_without_pairs_is_refused(records: ModuleType, tmp_path: Path) -> None:
    info = records.run_info("alone", [records.task_info("one")], method="single")
    run = records.write_run(tmp_path / "alone", info, records.status(), {})
    with pytest.raises(
        OrthoLoraError, match=r"no gradients of two tasks at once are recorded \(method single, 1 tasks\)"
    ):
        diagnose(run)
    result = CliRunner().invoke(app, ["diagnose", str(run)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
