"""What a record's vectors predict: the numbers of `record.transfer`, in frames, sentences and documents."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from typer.testing import CliRunner
from vectors import drawn, truth

from analysis.__main__ import app
from analysis.output.data import frame_of
from analysis.transfer.advice import advised_groups, advised_weights
from analysis.transfer.predicted import over_transfer, target_progress, transfer_matrix, transfer_steps
from analysis.transfer.words import described, told_of_groups, told_of_targets
from ortho_lora import OrthoLoraError
from ortho_lora.record.advice import best_groups
from ortho_lora.record.manifest import part_files
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.transfer import progress, transfer

WEIGHTS = np.array([1.0, 0.5, 2.0])
TASKS = tuple(
    TASK.model_copy(update={"name": name, "loss_weight": weight}) for name, weight in zip("abc", WEIGHTS, strict=True)
)
PLACES = {
    step: replace(drawn(truth(seed), seed), batches=known_snapshot(step).batches) for seed, step in enumerate((4, 8))
}


def write(run_dir, config, places=PLACES):
    with Recorder(run_dir) as recorder:
        recorder.begin(INFO.model_copy(update={"run_id": run_dir.name, "tasks": TASKS, "config": config}))
        for step, of in places.items():
            recorder.add_snapshot(step, known_snapshot(step, vectors=of))
    return run_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "x", {"optimizer": "adamw", "snapshots": 2})


def test_each_cell_is_the_effect_of_its_source_on_its_target(run):
    assert transfer_steps(run) == [4, 8]
    for step, of in PLACES.items():
        found, expected = transfer_matrix(run, step), transfer([of], WEIGHTS)
        assert found[["target", "source"]].values.tolist() == [[t, s] for t in "ab" for s in "abc"]
        assert (found["step"] == step).all()
        for name in ("nats", "pull", "crowding"):
            effects = getattr(expected, name)
            low, high = effects.interval()
            ends = ["low", "high"] if name == "nats" else [f"{name}_low", f"{name}_high"]
            np.testing.assert_allclose(found[[name, *ends]].T, [effects.value, low, high], rtol=2e-3, atol=1e-7)
        assert found["verdict"].tolist() == expected.verdict
    together = transfer_matrix(run)
    expected = transfer(list(PLACES.values()), WEIGHTS)
    np.testing.assert_allclose(together["nats"], expected.nats.value, rtol=2e-3, atol=1e-7)
    assert over_transfer(run)["step"].tolist() == [4] * 6 + [8] * 6


def test_a_record_of_another_loop_tells_of_its_last_snapshot(tmp_path):
    run = write(tmp_path / "x", {"optimizer": "adamw"})
    pd.testing.assert_frame_equal(transfer_matrix(run), transfer_matrix(run, 8))


def test_gradient_descent_knows_no_crowding(tmp_path):
    run = write(tmp_path / "x", {"optimizer": "sgd"})
    np.testing.assert_allclose(transfer_matrix(run)["crowding"], 0.0, atol=1e-12)


def test_any_mixture_can_be_asked(run):
    found = target_progress(run, {"a": 1.0, "c": 3.0}, 4)
    expected = progress([PLACES[4]], np.array([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(found["nats"], expected.value, rtol=2e-3, atol=1e-7)
    own = target_progress(run, None, 4)
    np.testing.assert_allclose(own["nats"], transfer([PLACES[4]], WEIGHTS).progress.value, rtol=2e-3, atol=1e-7)
    np.testing.assert_array_equal(own["alone"], found["alone"])
    for mixture, words in (({"cats": 1.0}, "task 'cats': expected one of a, b, c"), ({"a": -1.0}, "weight -1 of")):
        with pytest.raises(OrthoLoraError, match=words):
            target_progress(run, mixture)


def test_sentences_name_who_harms_and_who_helps_most(run):
    matrix, now = transfer_matrix(run), target_progress(run)
    lines = told_of_targets(matrix, now)
    assert [line.split(":")[0] for line in lines] == ["a", "b"]
    for line, target in zip(lines, "ab", strict=True):
        others = matrix[(matrix["target"] == target) & (matrix["source"] != target)]
        for verdict, find in (("harms", "idxmax"), ("helps", "idxmin")):
            sure = others[others["verdict"] == verdict]
            assert (verdict in line) == bool(len(sure))
            if len(sure):
                assert f"{others.loc[getattr(sure['nats'], find)()]['source']} {verdict} it most" in line
    others = matrix[matrix["source"] != matrix["target"]]
    assert f"{(others['verdict'] != 'not sure').sum()} of 4 effects are sure" in described(matrix)


def test_one_that_its_own_texts_harm_is_said_to_overfit(run):
    matrix = transfer_matrix(run)
    of_itself = (matrix["source"] == "a") & (matrix["target"] == "a")
    matrix.loc[of_itself, "verdict"] = "harms"
    assert "it overfits" in told_of_targets(matrix, target_progress(run))[0]


class TestCommand:
    def test_prints_every_effect(self, run):
        printed = CliRunner().invoke(app, ["transfer", str(run)], catch_exceptions=False).stdout
        matrix = transfer_matrix(run)
        for value in matrix["nats"]:
            assert f"{1000 * value:+.2f}" in printed
        assert "harms it most" in printed

    def test_json_has_each_snapshot(self, run):
        found = json.loads(CliRunner().invoke(app, ["transfer", str(run), "--json"]).stdout)
        assert [row["step"] for row in found["transfer"]] == [4] * 6 + [8] * 6
        assert {"step", "source", "target", "nats", "low", "high", "pull", "crowding"} <= set(found["transfer"][0])
        assert [row["target"] for row in found["targets"]] == ["a", "b"]
        np.testing.assert_allclose([row["nats"] for row in found["together"]], transfer_matrix(run)["nats"])

    def test_a_mixture(self, run):
        given = ["transfer", str(run), "--mixture", "a", "--mixture", "c=3", "--json"]
        found = json.loads(CliRunner().invoke(app, given).stdout)
        expected = target_progress(run, {"a": 1.0, "c": 3.0})["nats"]
        np.testing.assert_allclose([row["nats"] for row in found["targets"]], expected)
        assert "Mixture of a 1, c 3" in CliRunner().invoke(app, given[:-1]).stdout

    @pytest.mark.parametrize(
        ("given", "words"),
        [(["--mixture", "a=x"], "'a=x' given, expected TASK or TASK=WEIGHT"), (["--mixture", "d"], "task 'd'")],
    )
    def test_refuses_what_is_no_mixture(self, run, given, words):
        done = CliRunner().invoke(app, ["transfer", str(run), *given])
        assert (done.exit_code, words in done.stderr) == (2, True)

    def test_says_how_to_get_what_is_not_there(self, tmp_path):
        none = write(tmp_path / "none", {}, {4: None})
        assert "snapshot_held_out" in CliRunner().invoke(app, ["transfer", str(none)]).stderr
        vectors = drawn(truth(0), 0)
        vectors.rate[:] = np.nan
        unknown = write(tmp_path / "unknown", {}, {4: vectors})
        assert "give `optimizer=`" in CliRunner().invoke(app, ["transfer", str(unknown)]).stderr
        assert frame_of("transfer", [none]).empty


def test_torn_or_strange_vectors_are_said_to_be_so(tmp_path):
    run = write(tmp_path / "x", {}, {4: PLACES[4]})
    (path,) = part_files(run, "vectors")
    path.write_bytes(path.read_bytes()[:-2000])
    assert transfer_matrix(run).empty  # the pages name the part
    other = write(tmp_path / "y", {}, {4: drawn(truth(0), 0, tasks=("d", "e", "f"))})
    with pytest.raises(OrthoLoraError, match="vectors of step 4 are not those of its tasks"):
        transfer_matrix(other)


class TestAdvice:
    def test_groups_are_those_of_the_record(self, run):
        found = advised_groups(run, 4)
        expected = best_groups([PLACES[4]], WEIGHTS)
        assert found["adapters"].tolist() == [len(one.groups) for one in expected] == [1, 2, 3]
        np.testing.assert_allclose(found["gain"], [one.gain.value[0] for one in expected], rtol=2e-3, atol=1e-7)
        np.testing.assert_allclose(found["elsewhere"], [one.elsewhere for one in expected], rtol=2e-3, atol=1e-7)
        assert found["advised"].sum() == 1
        assert sorted(found["groups"].iloc[2].split(" | ")) == ["a", "b", "c"]

    def test_what_promises_nothing_elsewhere_is_not_advised(self, tmp_path):
        """Three tasks that are one."""
        known = truth(0)
        same = replace(known, means=np.tile(known.means[:1], (3, 1)), held_out=np.tile(known.means[:1], (2, 1)))
        alike = replace(drawn(same, 3), batches=known_snapshot(4).batches)
        run = write(tmp_path / "x", {"optimizer": "adamw"}, {4: alike})
        assert advised_groups(run).set_index("advised").loc[True, "adapters"] == 1
        assert told_of_groups(advised_groups(run)).startswith("Advised: one adapter")

    def test_weights_gain_in_one_adapter(self, run):
        frame, gain = advised_weights(run, 4)
        assert frame["task"].tolist() == ["a", "b", "c"]
        assert frame["weight"].tolist() == WEIGHTS.tolist()
        np.testing.assert_allclose(np.prod(frame["advised"]), np.prod(WEIGHTS), rtol=1e-6)
        assert gain["low"] < gain["gain"] < gain["high"]
        assert gain["gain"] < 0
        now, then = (target_progress(run, dict(zip("abc", of, strict=True)), 4) for of in (WEIGHTS, frame["advised"]))
        assert gain["gain"] == pytest.approx(then["nats"].sum() - now["nats"].sum(), rel=1e-3)

    def test_the_command_prints_both(self, run):
        printed = CliRunner().invoke(app, ["transfer", str(run)], catch_exceptions=False).stdout
        assert "Advised: " in printed
        assert "How to weigh" in printed
        found = json.loads(CliRunner().invoke(app, ["transfer", str(run), "--json"]).stdout)
        assert [row["adapters"] for row in found["groups"]] == [1, 2, 3]
        assert [row["task"] for row in found["weights"]["tasks"]] == ["a", "b", "c"]
