"""Probes at the start of a model and at checkpoints of real runs."""

import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import content, table
from typer.testing import CliRunner

from analysis.conflict.snapshots import snapshot_pairs
from analysis.diagnosis.diagnose import diagnose
from analysis.library.runs import list_runs, runs_table
from analysis.summary import summarise
from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.__main__ import app as command
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.admission import lock_run
from ortho_lora.record.products import of_means
from ortho_lora.record.schema import ProbeInfo, read_run, read_status
from ortho_lora.record.tables import TABLES
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.config import load_config
from ortho_lora.training.model import MultiTaskModel
from ortho_lora.training.passes import Passes
from ortho_lora.training.precision import Goal
from ortho_lora.training.probe import config_of, probe
from ortho_lora.training.resume import resume
from ortho_lora.training.session import Training
from ortho_lora.training.snapshots import grouped_batches
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies", "movies@1"],
    "batch_size": 4,
    "steps": 3,
    "eval_examples": 8,
    "max_length": 16,
    "rank": 2,
    "snapshots": 1,
    "snapshot_batches": 9,
    "snapshot_texts": 4,
    "threads": 1,
}


def config(**changes):
    return load_config(overrides=SMALL | changes)


@pytest.fixture(scope="module", autouse=True)
def _small(tiny):
    SMALL["model"] = tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with dropout, and a snapshot of 9 batches."""
    return train(config(schedule="constant"), tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture(scope="module")
def probed(run):
    """What a probe of that run finds at its end with as many batches; the probe lies beside it."""
    return probe(config_of(run), run.parent, "probed", of=run, goal=Goal(9))


@pytest.fixture
def watched(monkeypatch):
    """The model of each batch, its parameters and buffers before the batch, and what was drawn."""
    seen = []
    plain = Passes.loss

    def loss(self, name, drawn):
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        seen.append((self.model, {of: value.detach().clone() for of, value in state.items()}, drawn[1]))
        return plain(self, name, drawn)

    monkeypatch.setattr(Passes, "loss", loss)
    return seen


def test_a_snapshot_is_recorded_and_nothing_else(run, probed):
    found = probed.run_dir
    info, status = read_run(found), read_status(found)
    assert (status.state, status.step, status.total, status.phase) == ("finished", 9, 9, "done")
    assert info.probe == ProbeInfo(run="whole", step=3, seed=0)
    assert info.probe.where == "at step 3 of run whole"
    assert (info.task_names, info.modules) == (read_run(run).task_names, read_run(run).modules)
    assert {name for name in TABLES if len(table(found, name))} == {"snapshots", "snapshot_tasks", "texts", "vectors"}
    assert set(table(found, "snapshots")["step"]) == {3}
    assert table(found, "snapshot_tasks")["batches"].tolist() == [9] * 6  # of held-out texts too
    assert (found / "log.txt").read_text().count("probe at step 3 of run whole on") == 1
    assert not (found / "adapter").exists()
    assert (probed.step, probed.batches, probed.metric) == (3, 9, "adamw")
    assert all(np.isfinite(loss) for loss in status.losses.values())
    assert status.losses.keys() == {"trec", "movies", "movies-flip1"}


def test_it_is_the_snapshot_that_a_training_takes_there(tmp_path):
    """With dropout, row by row."""
    run = train(config(steps=1), tmp_path, "one")
    found = probe(config_of(run), tmp_path, "probed", of=run, goal=Goal(9)).run_dir
    assert read_run(run).config["dropout"] > 0
    for name in ("snapshots", "snapshot_tasks"):
        pd.testing.assert_frame_equal(table(found, name), table(run, name), check_exact=True)


def test_gradients_are_those_of_autograd_at_the_checkpoint(run, tmp_path):
    settings = load_config(overrides=config_of(run).model_dump() | {"dropout": 0.0})
    found = probe(settings, tmp_path, "x", of=run, goal=Goal(9), seed=4)
    tasks = load_tasks(settings.tasks, settings.seed)
    training = Training(settings, tasks, lambda status: None, None)
    training.restore(run)
    training.model.eval()
    parameters = [block.parameter for block in training.groups[0].surgeon.blocks]

    def means(task, split, once):
        """Of each group's batches, [32, D]; NaN: none."""
        grouped = grouped_batches(split, 9, 4, seed=4, step=3, once=once)
        assert len(set(grouped.groups)) == 9
        found = np.full((32, sum(parameter.numel() for parameter in parameters)), np.nan)
        for group, indices in zip(grouped.groups, grouped.indices, strict=True):
            gradients = torch.autograd.grad(training.passes.loss(task.name, (split, indices)), parameters)
            found[group] = torch.cat([gradient.flatten() for gradient in gradients])
        return found

    learned = np.stack([means(task, task.train, False) for task in tasks], axis=1)
    held = np.stack([means(task, task.evaluation["validation"], True) for task in tasks], axis=1)
    used = ~(np.isnan(learned[..., 0]).all(axis=1) & np.isnan(held[..., 0]).all(axis=1))
    learned, held = learned[used], held[used]
    state = [training.optimizer.state[parameter]["exp_avg_sq"].flatten() for parameter in parameters]
    root = 1 / np.sqrt(np.sqrt(torch.cat(state).double().numpy() / (1 - 0.999**3)) + 1e-8)
    rows = table(found.run_dir, "snapshots").astype({"task_i": str, "task_j": str})
    sums = rows.assign(group=rows["group"].fillna(-1)).groupby(["metric", "target", "group", "task_i", "task_j"])
    product = sums["product"].sum()
    for metric, by in (("plain", 1.0), ("adamw", root)):
        for target, expected in ((False, of_means(learned * by)), (True, of_means(held * by, learned * by))):
            for i in range(3):
                for j in range(0 if target else i, 3):
                    recorded = product.loc[metric, target, :, tasks[i].name, tasks[j].name]
                    scale = np.abs(expected).max()
                    np.testing.assert_allclose(recorded.sort_index(), expected[:, i, j], rtol=2e-3, atol=1e-4 * scale)


def test_no_parameter_and_no_buffer_changes(run, tmp_path, monkeypatch, watched):
    plain, plain_init = MultiTaskModel.pooled, MultiTaskModel.__init__

    def init(self, *arguments, **settings):
        plain_init(self, *arguments, **settings)
        self.register_buffer("seen", torch.zeros(()))

    def counting(self, tokens):
        """As batch normalisation counts the batches that it sees."""
        self.seen += 1
        return plain(self, tokens)

    monkeypatch.setattr(MultiTaskModel, "__init__", init)
    monkeypatch.setattr(MultiTaskModel, "pooled", counting)
    probe(config_of(run), tmp_path, "x", of=run, goal=Goal(3))
    model = watched[0][0]
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = torch.load(run / "checkpoint" / "state.pt", weights_only=True)["parameters"]
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in saved.items())
    assert len(watched) == 3 * 6 + 3 * 4  # batches, and single texts
    for _, before, _ in watched:
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], value) for name, value in after.items())
        assert all(torch.equal(before[name], value) for name, value in saved.items())
    assert after["seen"] == 0


def test_the_run_is_only_read_also_while_another_process_writes_it(run, tmp_path):
    lock = lock_run(run)
    try:
        before = content(run)
        probe(config_of(run), tmp_path, "x", of=run, goal=Goal(1))
        assert content(run) == before
    finally:
        lock.release()


def test_batches_are_those_of_a_seed(run, tmp_path, watched):
    settings = config_of(run)
    drawn, rows = {}, {}
    for name, seed in (("one", None), ("same", 0), ("other", 1)):
        watched.clear()
        probe(settings, tmp_path, name, of=run, goal=Goal(8), seed=seed)
        drawn[name] = [indices for *_, indices in watched]
        rows[name] = table(tmp_path / name, "snapshots")
    assert drawn["one"] == drawn["same"] != drawn["other"]
    assert rows["one"].equals(rows["same"])
    assert not rows["one"].equals(rows["other"])
    assert read_run(tmp_path / "other").probe.seed == 1


def test_how_it_is_measured_may_differ_from_the_run(run, tmp_path, watched):
    probe(config_of(run, {"batch_size": 7}), tmp_path, "x", of=run, goal=Goal(1))
    assert [len(indices) for *_, indices in watched] == [7] * 6 + [1] * (3 * 4)  # single texts
    with pytest.raises(
        OrthoLoraError, match="gradient_mode: a run is probed with its own settings; only batch_size, device, precision"
    ):
        config_of(run, {"batch_size": 7, "gradient_mode": "sequential"})


def test_at_the_start_only_b_is_measured(tmp_path):
    found = probe(config(), tmp_path, goal=Goal(8)).run_dir
    assert found.name.endswith("-probe")
    assert read_run(found).probe.where == "at the start"
    rows = table(found, "snapshots")
    assert set(rows["step"]) == {0}
    assert (rows[rows["branch"] == "A"]["product"] == 0).all()
    assert (rows[rows["branch"] == "B"]["product"] != 0).all()
    assert not table(found, "snapshot_tasks")["of_optimizer"].any()
    said = read_status(found).message
    assert said.startswith("8 batches of every task, in 8 groups of texts: ")
    assert said.endswith(" Branch A has no gradient, as wherever B = 0, and LoRA starts there.")


def test_it_stops_when_the_intervals_are_narrow(tmp_path):
    reported = []
    twins = config(tasks=["spam", "spam@1"], snapshots=0)
    found = probe(twins, tmp_path, "x", goal=Goal(60, 0.4), report=reported.append)
    status = read_status(found.run_dir)
    assert status.state == "finished"
    assert found.batches == status.step == status.total in (16, 24, 32, 40)  # as many as it took
    assert ", within ±0.4 as asked. Branch A has" in status.message
    ((one, other, cosine, low, high, verdict),) = found.pairs
    assert (one, other, verdict) == ("spam", "spam-flip1", "conflict")
    assert low <= cosine <= high < 0
    assert (high - low) / 2 <= 0.4
    assert [of.step for of in reported if of.phase == "probing"] == [
        step for round_ in range(found.batches) for step in (round_, round_ + 1, round_ + 1, round_ + 1)
    ]
    assert {of.total for of in reported if of.step < 16} == {0}  # not known
    # What was looked at is what an analysis of the record finds.
    (row,) = snapshot_pairs(found.run_dir).to_dict("records")
    assert (row["task_i"], row["task_j"], row["verdict"]) == (one, other, verdict)
    assert [row["cosine"], row["low"], row["high"]] == pytest.approx([cosine, low, high], abs=1e-3)


def test_the_metric_is_that_of_the_optimizer_of_the_run(tmp_path):
    found = probe(config(optimizer="sgd"), tmp_path, "x", goal=Goal(8))
    assert found.metric == "plain"
    known = snapshot_pairs(found.run_dir, metric="plain")
    for pair, low in zip(found.pairs, known["low"], strict=True):
        assert pair.low == pytest.approx(low, abs=1e-3)


def test_the_command_probes_beside_the_run(run):
    result = CliRunner().invoke(command, ["probe", str(run), "--batches", "8", "--name", "command", "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(run.parent / "command")
    for pair in ("trec – movies ", "trec – movies-flip1 ", "movies – movies-flip1 "):
        assert result.stdout.count(pair) == 1
    assert "8 batches of every task, in 8 groups of texts: " in result.stderr
    assert read_run(run.parent / "command").probe == ProbeInfo(run="whole", step=3, seed=5)


def test_the_command_prints_json(run):
    result = CliRunner().invoke(command, ["probe", str(run), "--batches", "9", "--name", "json", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    pairs = found.pop("pairs")
    assert found == {"probe": str(run.parent / "json"), "step": 3, "batches": 9, "metric": "adamw"}
    assert [list(pair) for pair in pairs] == [["task_i", "task_j", "cosine", "low", "high", "verdict"]] * 3
    known = snapshot_pairs(run.parent / "json")
    for pair, row in zip(pairs, known.to_dict("records"), strict=True):
        assert (pair["task_i"], pair["task_j"], pair["verdict"]) == (row["task_i"], row["task_j"], row["verdict"])
        for name in ("cosine", "low", "high"):
            assert (pair[name] is None) == np.isnan(row[name])
            assert pair[name] is None or pair[name] == pytest.approx(row[name], abs=1e-3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_with_a_snapshot_of_what_there_is(tmp_path, number):
    calls = []

    def stop(status):
        calls.append(status)
        if len(calls) == 2 * 6 + 4:  # of the third round
            signal.raise_signal(number)

    found = probe(config(), tmp_path, "x", goal=Goal(1000), report=stop)
    assert (read_status(found.run_dir).state, read_status(found.run_dir).step, found.batches) == ("stopped", 3, 3)
    assert table(found.run_dir, "snapshot_tasks")["batches"].tolist() == [3, 3, 3, 3, 2, 2]
    assert "take at least 8 batches" in read_status(found.run_dir).message
    with pytest.raises(OrthoLoraError, match="a probe is not gone on with: probe anew"):
        resume(found.run_dir)


def test_stopped_before_every_task_has_a_batch_it_records_nothing(tmp_path):
    def stop(status):
        if status.state == "running":
            signal.raise_signal(signal.SIGINT)

    found = probe(config(), tmp_path, "x", goal=Goal(1000), report=stop)
    status = read_status(found.run_dir)
    assert (status.state, status.step, found.pairs) == ("stopped", 0, ())
    assert status.message == "Stopped before every task had a batch."
    assert table(found.run_dir, "snapshots").empty


def test_a_loss_that_is_not_finite_fails_in_words(tmp_path, monkeypatch):
    plain = MultiTaskModel.loss
    monkeypatch.setattr(
        MultiTaskModel, "loss", lambda self, task, *of: plain(self, task, *of) * (float("nan") if task == 1 else 1)
    )
    with pytest.raises(OrthoLoraError, match="the loss of task 'movies' is nan in batch 0: no parameters changed"):
        probe(config(), tmp_path, "x")
    assert read_status(tmp_path / "x").state == "failed"
    assert "the probe failed: snapshot: the loss of task 'movies'" in (tmp_path / "x" / "log.txt").read_text()


def test_a_run_without_a_checkpoint_is_refused(tmp_path, run, probed):
    without = train(config(checkpoint_every=None, steps=1), tmp_path, "without")
    with pytest.raises(OrthoLoraError, match="without: there is no checkpoint to probe: it ended before its first one"):
        config_of(without)
    with pytest.raises(OrthoLoraError, match="it is a probe itself, at step 3 of run whole: ask for more --batches"):
        config_of(probed.run_dir)
    with pytest.raises(OrthoLoraError, match="not a run"):
        config_of(tmp_path)
    with Recorder(tmp_path / "own") as recorder:
        OrthoLoRA(Training(config(), load_tasks(config().tasks, 0), print, None).encoder, ["a"], recorder=recorder)
    with pytest.raises(OrthoLoraError, match="another loop than `python -m ortho_lora train` recorded it"):
        config_of(tmp_path / "own")


def test_what_shares_no_adapter_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, run):
    monkeypatch.setattr("ortho_lora.training.probe.tasks_of", lambda *of: pytest.fail("data were loaded"))
    with pytest.raises(OrthoLoraError, match="'single' gives each task an adapter of its own, where no gradients meet"):
        probe(config(method="single"), tmp_path / "runs")
    with pytest.raises(OrthoLoraError, match="tasks: only trec given, expected at least two"):
        probe(config(tasks=["trec"]), tmp_path / "runs")
    with pytest.raises(OrthoLoraError, match="run 'whole' exists in"):
        probe(config(), run.parent, "whole")
    assert not (tmp_path / "runs").exists()


def test_a_damaged_checkpoint_leaves_no_probe(tmp_path, run):
    broken = tmp_path / "broken"
    (broken / "checkpoint").mkdir(parents=True)
    (broken / "run.json").write_bytes((run / "run.json").read_bytes())
    (broken / "checkpoint" / "state.pt").write_bytes((run / "checkpoint" / "state.pt").read_bytes()[:1000])
    with pytest.raises(OrthoLoraError, match=r"state\.pt: cannot be read as a checkpoint"):
        probe(config_of(broken), tmp_path / "runs", "x", of=broken)
    assert not (tmp_path / "runs").exists()


def test_the_record_is_read_like_that_of_a_run(run, probed):
    frame = runs_table(list_runs(run.parent)).set_index("run")
    assert frame.loc["probed", "method"] == "ortho-lora, probe at step 3 of run whole"
    assert frame.loc["whole", "method"] == "ortho-lora"
    document = summarise(probed.run_dir)
    assert (document["probe"], document["step"], document["total"]) == ("at step 3 of run whole", 9, 9)
    assert [(of["task_i"], of["task_j"], of["verdict"]) for of in document["snapshots"]] == [
        (pair.task_i, pair.task_j, pair.verdict) for pair in probed.pairs
    ]
    json.dumps(document, allow_nan=False)
    diagnosis = diagnose(probed.run_dir)
    assert (diagnosis.probe, diagnosis.snapshots, diagnosis.outcomes) == ("at step 3 of run whole", (3,), ())
    assert diagnosis.summary.startswith("Probe at step 3 of run whole: ")
    assert [(of.task_i, of.task_j, of.verdict) for of in diagnosis.pairs] == [
        (pair.task_i, pair.task_j, pair.verdict) for pair in probed.pairs
    ]
    for pair, said in zip(diagnosis.pairs, probed.pairs, strict=True):
        for one, other in ((pair.cosine, said.cosine), (pair.low, said.low), (pair.high, said.high)):
            assert (one is None) == (other is None)
            assert one is None or one == pytest.approx(other, abs=1e-6)
