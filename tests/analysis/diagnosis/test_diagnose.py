import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from typer.testing import CliRunner
from vectors import drawn, truth

from analysis.__main__ import app
from analysis.conflict.queries import Selection, task_matrix
from analysis.diagnosis.advice import clusters
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.sentences import undecided
from analysis.diagnosis.verdicts import Branch, Harm, Pair
from analysis.transfer.advice import advised_groups
from analysis.transfer.predicted import transfer_matrix
from analysis.transfer.words import headline, told_of_groups
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo, groups_text

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
    assert [other.verdict for other in found.pairs[1:]] == ["no conflict worth the name"] * 2
    for branch in pair.branches:
        assert branch.cosine_low is not None
        assert branch.cosine_high is not None
        assert branch.cosine_low < -0.6 < branch.cosine_high
        assert branch.batch_cosine is not None
        assert -0.6 < branch.batch_cosine < 0, "noise pulls batch cosines to zero"
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
    assert f"(groups: {groups_text(found.suggestions[0].groups)})" in found.suggestions[0].text
    assert "task0 – task1" in found.summary


def test_a_planted_alignment(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", directions(0.6), noise=0.35))
    assert found.pairs[0].verdict == "aligned"
    assert "No pair conflicts worth the name" in found.summary
    assert [suggestion.kind for suggestion in found.suggestions] == ["nothing"]


def test_pure_noise_is_not_enough(records: ModuleType, tmp_path: Path) -> None:
    """Nothing is known of gradients that are noise, however narrow the interval of their batch cosines."""
    found = diagnose(made(records, tmp_path / "run", np.zeros((3, WIDTH))))
    assert {pair.verdict for pair in found.pairs} == {"not enough data"}
    assert all(branch.cosine is None for pair in found.pairs for branch in pair.branches)
    assert "not enough data" in found.summary
    assert [suggestion.kind for suggestion in found.suggestions] == ["more data"]


def test_few_steps_are_not_enough(records: ModuleType, tmp_path: Path) -> None:
    found = diagnose(made(records, tmp_path / "run", directions(-0.9), steps=7))
    assert {pair.verdict for pair in found.pairs} == {"not enough data"}
    assert [suggestion.kind for suggestion in found.suggestions] == ["more data"]
    assert all(branch.q is None for pair in found.pairs for branch in pair.branches)


def test_a_twin_is_judged_by_its_batches(records: ModuleType, tmp_path: Path) -> None:
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.3, twins={"task1": "task0"})
    pair = diagnose(run).pairs[0]
    assert (pair.verdict, pair.shares_texts) == ("conflict", True)
    for branch in pair.branches:
        assert branch.cosine == pytest.approx(branch.batch_cosine, abs=0.05)
    text = CliRunner().invoke(app, ["diagnose", str(run)]).stdout
    assert "of the batches themselves, as the tasks draw the same texts" in " ".join(text.split())


def test_a_sign_without_a_strength(records: ModuleType, tmp_path: Path) -> None:
    """Without half products, as of batches of one example, cosines tell the side of 0 only."""
    halves = records.noisy_halves(directions(-0.6), (60, 2, 2, 2), 0.35, np.random.default_rng(0))
    tables = records.gradient_tables(halves, ["task0", "task1", "task2"])
    tables["norms"]["half_product"] = np.nan
    info = records.run_info("run", [records.task_info(f"task{place}") for place in range(3)])
    run = records.write_run(tmp_path / "run", info, records.status(), tables)
    first, *others = diagnose(run).pairs
    assert (first.verdict, {pair.verdict for pair in others}) == ("conflict", {"not enough data"})
    for branch in first.branches:
        assert (branch.cosine, branch.cosine_low, branch.cosine_high) == (None, -1.0, 0.0)
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    assert "conflict: the cosine lies within -1.00 to +0.00, more is not known" in text


def late_conflict(records: ModuleType, path: Path, since: int) -> Path:
    """A conflict of layer 1 from a step on, of 120 steps."""
    halves = 0.4 * np.random.default_rng(0).standard_normal((120, 2, 2, 2, 2, 2, WIDTH))
    halves[since:, 1, :, :, 0, :, 0] += 1
    halves[since:, 1, :, :, 1, :, 0] -= 1
    names = ["one", "other"]
    info = records.run_info("run", [records.task_info(name) for name in names])
    made: Path = records.write_run(path, info, records.status(), records.gradient_tables(halves, names))
    return made


def test_a_conflict_of_some_steps_and_layers_is_placed(records: ModuleType, tmp_path: Path) -> None:
    for branch in diagnose(late_conflict(records, tmp_path / "run", 40)).pairs[0].branches:
        assert branch.verdict == "conflict"
        assert {place.layer for place in branch.places} == {1}
        assert (branch.since, branch.until) == (40, 119)


def test_a_conflict_of_half_of_the_steps_widens_the_interval(records: ModuleType, tmp_path: Path) -> None:
    """The mean of two halves that differ is not sure; it is not cleared, and asked about the half it is told."""
    run = late_conflict(records, tmp_path / "run", 60)
    assert diagnose(run).pairs[0].verdict == "not enough data"
    assert set(task_matrix(run, Selection(steps=(60, 119)))["verdict"]) == {"conflict"}


def test_uneven_magnitudes_meet_the_condition_and_ask_for_weights(records: ModuleType, tmp_path: Path) -> None:
    true = directions(-0.6)
    true[0] *= 10
    found = diagnose(made(records, tmp_path / "run", true, noise=0.5))
    whole = found.pairs[0].whole
    assert whole.enough is True
    assert whole.norm_ratio == pytest.approx(10, rel=0.1)
    assert whole.magnitude_similarity == pytest.approx(2 * 10 / (1 + 100), rel=0.1)
    assert "loss weights" in [suggestion.kind for suggestion in found.suggestions]


def test_clusters_split_what_conflicts_only() -> None:
    def pair(one: str, other: str, verdict: Any, cosine: float) -> Pair:
        unknown = dict.fromkeys(Branch.__dataclass_fields__)
        branch = Branch(**(unknown | {"verdict": verdict, "cosine": cosine}))
        harm = Harm(**dict.fromkeys(Harm.__dataclass_fields__))
        return Pair(one, other, cosine, None, None, verdict, False, harm, (branch,))

    short: Any = "not enough data"
    pairs = [pair("a", "b", "conflict", -0.5), pair("a", "c", "aligned", 0.5), pair("b", "c", short, -0.4)]
    assert clusters("abc", pairs) == (("a", "c"), ("b",))
    assert clusters("abc", [pair("a", "b", short, -0.5)]) == (("a", "b", "c"),)


def test_json_and_text(records: ModuleType, tmp_path: Path) -> None:
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.35)
    result = CliRunner().invoke(app, ["diagnose", str(run), str(run), "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert first == second
    assert [pair["verdict"] for pair in first["pairs"]] == ["conflict"] + ["no conflict worth the name"] * 2
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    for words in (
        "1 of 3 pairs conflict",
        "chance gives 50%",
        "Where: clear in 4 of 4",
        "PCGrad's own condition",
        "Theorem 2",
    ):
        assert words in text


def test_a_probe_is_told_as_one(tmp_path: Path) -> None:
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    place = ProbeInfo(run="mine", step=100, seed=0)
    with Recorder(tmp_path / "run", total=24) as recorder:
        recorder.begin(INFO.model_copy(update={"run_id": "run", "tasks": tasks, "probe": place}))
        recorder.add_snapshot(100, known_snapshot(0))
    found = diagnose(tmp_path / "run")
    assert found.probe == "at step 100 of run mine"
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(tmp_path / "run")]).stdout.split())
    assert "run: probe at step 100 of run mine, joint, seed 0; verdicts from the snapshot at step 100" in text
    assert "Probe at step 100 of run mine: 1 of 3 pairs conflict: a – b. A probe" in text
    assert "When:" not in text
    text = " ".join(CliRunner().invoke(app, ["summary", str(tmp_path / "run")]).stdout.split())
    assert "probe at step 100 of run mine, batch 0 of 24, joint" in text
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
    run = made(records, tmp_path / "run", directions(-0.6), noise=0.8)
    found = diagnose(run)
    text = " ".join(CliRunner().invoke(app, ["diagnose", str(run)]).stdout.split())
    assert "python -m ortho_lora probe RUN_DIR --batches N" in text
    short = [pair for pair in found.pairs if any(branch.verdict == "not enough data" for branch in pair.branches)]
    assert short
    listed = undecided(found.pairs)[1:-2]
    assert [line.split(":")[0] for line in listed] == [f"  {pair.task_i} – {pair.task_j}" for pair in short]
    for pair, line in zip(short, listed, strict=True):
        for branch in pair.branches:
            if branch.verdict == "not enough data":
                assert branch.more_steps
                assert f"about {branch.more_steps:,} more on branch {branch.branch}" in line
            else:
                assert branch.more_steps == 0
    assert undecided([pair for pair in found.pairs if pair not in short]) == []


def test_as_many_steps_as_needed_are_mostly_enough(records: ModuleType, tmp_path: Path) -> None:
    """The number itself is an estimate, of few steps: of twice as many, most pairs have a verdict."""
    few = diagnose(made(records, tmp_path / "few", directions(-0.6), noise=0.8))
    needed = [branch.more_steps for pair in few.pairs for branch in pair.branches]
    assert all(steps is not None for steps in needed)
    steps = 60 + 2 * max(steps for steps in needed if steps is not None)
    many = diagnose(made(records, tmp_path / "many", directions(-0.6), noise=0.8, steps=steps))
    verdicts = [branch.verdict for pair in many.pairs for branch in pair.branches]
    assert verdicts.count("not enough data") <= 1
    assert verdicts[:2] == ["conflict", "conflict"]


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
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a + b", "c | d", "|")])
def test_where_transfer_is_predicted_it_tells_who_should_share(tmp_path: Path, names: tuple[str, ...]) -> None:
    """One advice: that of the first page; whatever the sources of a mixture are called."""
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in names)
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": {"optimizer": "adamw"}}))
        recorder.add_snapshot(4, known_snapshot(4, names, vectors=drawn(truth(4), 4, names)))
    found, groups = diagnose(tmp_path / "x"), advised_groups(tmp_path / "x")
    row = groups[groups["advised"]].iloc[0]
    assert row["adapters"] > 1
    (suggestion,) = [one for one in found.suggestions if one.kind == "separate adapters"]
    assert suggestion.text == told_of_groups(groups)
    assert sorted(name for group in suggestion.groups for name in group) == sorted(names)
    assert len(suggestion.groups) == row["adapters"]
    assert " | ".join(" + ".join(group) for group in suggestion.groups) == row["groups"]
    assert f"In nats: {headline(transfer_matrix(tmp_path / 'x'))}" in found.summary
