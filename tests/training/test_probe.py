"""Probes of the packaged model at its start and at checkpoints of real runs."""

import json
import re
import signal

import numpy as np
import pytest
import torch
from scipy import stats
from small_runs import table
from torch.nn.functional import cosine_similarity
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.diagnosis.diagnose import diagnose
from analysis.library.runs import list_runs, runs_table
from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.__main__ import app as command
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.admission import lock_run
from ortho_lora.record.schema import BRANCHES, ProbeInfo, read_run, read_status
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.batches import Batch, TaskSampler, seed_of
from ortho_lora.training.config import load_config
from ortho_lora.training.model import MultiTaskModel
from ortho_lora.training.precision import Goal
from ortho_lora.training.probe import config_of, probe
from ortho_lora.training.resume import resume
from ortho_lora.training.session import Training
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies", "movies@1"],
    "batch_size": 4,
    "steps": 3,
    "eval_examples": 8,
    "max_length": 16,
    "rank": 2,
    "record_every": 2,
    "threads": 1,
}


def config(**changes):
    return load_config(overrides=SMALL | changes)


def content(run_dir):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run_dir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run without dropout, so that its gradients can be computed again; at its end it would still learn."""
    return train(config(dropout=0.0, schedule="constant"), tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture(scope="module")
def probed(run):
    """That run, probed at its end, beside it."""
    return probe(config_of(run), run.parent, "probed", of=run, goal=Goal(3))


@pytest.fixture
def watched(monkeypatch):
    """The model of each batch measured, and its parameters and buffers before the batch."""
    seen = []
    plain = Training.measure

    def measure(self, indices):
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        seen.append((self.model, {name: value.detach().clone() for name, value in state.items()}, indices))
        return plain(self, indices)

    monkeypatch.setattr(Training, "measure", measure)
    return seen


def test_every_batch_is_recorded_as_training_records_a_step(run, probed):
    info, status = read_run(probed), read_status(probed)
    assert (status.state, status.step, status.total, status.phase) == ("finished", 3, 3, "done")
    assert info.probe == ProbeInfo(run="whole", step=3, seed=0)
    assert info.probe.where == "at step 3 of run whole"
    assert (info.task_names, info.modules) == (read_run(run).task_names, read_run(run).modules)
    assert len(table(probed, "steps")) == 3 * 3
    assert len(table(probed, "pairs")) == len(table(probed, "norms")) == 3 * 24 * 3  # whatever record_every
    assert table(probed, "pairs")["cos_before"].notna().all()
    assert table(probed, "pairs")["projected_ij"].any()
    assert table(probed, "steps")["learning_rate"].isna().all()
    assert table(probed, "metrics").empty
    assert (probed / "log.txt").read_text().count("probe at step 3 of run whole on") == 1
    assert not (probed / "adapter").exists()


def test_gradients_are_those_of_autograd_at_the_checkpoint(run, probed):
    settings = config_of(run)
    tasks = load_tasks(settings.tasks, settings.seed)
    training = Training(settings, tasks, lambda status: None, None)
    training.restore(run)
    model, blocks = training.model.eval(), training.groups[0].surgeon.blocks
    sampler = TaskSampler(tasks, 4, seed_of(0, "probe"))
    norms, pairs = table(probed, "norms"), table(probed, "pairs")
    for step in range(3):
        batch = Batch(tasks, sampler.next(), training.tokenizer, settings.max_length, training.device)
        gradients = []
        for task in range(3):
            some = batch.part(task, 0, 4)
            (loss,) = some.losses(model.loss, model.pooled(some.tokens())).values()
            gradients.append(torch.autograd.grad(loss, [block.parameter for block in blocks]))
            recorded = norms[(norms["step"] == step) & (norms["task"] == tasks[task].name)]["norm_before"]
            np.testing.assert_allclose([g.norm().item() for g in gradients[-1]], recorded, rtol=1e-3, atol=1e-6)
        for i, j in [(0, 1), (0, 2), (1, 2)]:
            rows = pairs[
                (pairs["step"] == step) & (pairs["task_i"] == tasks[i].name) & (pairs["task_j"] == tasks[j].name)
            ]
            expected = [
                cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
                for one, other in zip(gradients[i], gradients[j], strict=True)
            ]
            np.testing.assert_allclose(rows["cos_before"], expected, atol=2e-3)


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
    assert len(watched) == 3
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


def test_batches_are_those_of_a_seed_and_not_those_of_training(run, tmp_path, watched):
    settings = config_of(run)
    drawn = {}
    for name, seed in (("one", None), ("same", 0), ("other", 1)):
        watched.clear()
        probe(settings, tmp_path, name, of=run, goal=Goal(1), seed=seed)
        drawn[name] = watched[0][2]
    assert drawn["one"] == drawn["same"] != drawn["other"]
    tasks = load_tasks(settings.tasks, settings.seed)
    sampler = TaskSampler(tasks, 4, settings.seed)
    assert all(sampler.next() != drawn["one"] for _ in range(settings.steps + 1))
    pairs = {name: table(tmp_path / name, "pairs") for name in drawn}
    assert pairs["one"].equals(pairs["same"])
    assert not pairs["one"].equals(pairs["other"])
    assert read_run(tmp_path / "other").probe.seed == 1


def test_how_it_is_measured_may_differ_from_the_run(run, tmp_path, watched):
    settings = config_of(run, {"batch_size": 7, "gradient_mode": "sequential"})
    found = probe(settings, tmp_path, "x", of=run, goal=Goal(1))
    assert [len(of_task) for of_task in watched[0][2]] == [7, 7, 7]
    assert read_run(found).gradient_mode == "sequential"
    with pytest.raises(OrthoLoraError, match="rank: a run is probed with its own settings; only batch_size, device"):
        config_of(run, {"batch_size": 7, "rank": 3})


def test_at_the_start_only_b_is_measured(tmp_path):
    found = probe(config(), tmp_path, goal=Goal(5))  # more than it takes to call out a silent block
    assert found.name.endswith("-probe")
    assert read_run(found).probe.where == "at the start"
    pairs = table(found, "pairs")
    assert pairs.groupby("branch", observed=True)["cos_before"].count().to_dict() == {"A": 0, "B": 5 * 12 * 3}
    assert "Branch A has no cosine: its gradients were zero" in read_status(found).message
    twins = pairs[(pairs["task_i"] == "movies") & (pairs["branch"] == "B")]
    assert twins["cos_before"].mean() < -0.8


def test_it_stops_when_the_intervals_are_narrow(run, tmp_path):
    reported = []
    found = probe(config_of(run), tmp_path, "x", of=run, goal=Goal(60, 0.5), report=reported.append)
    status = read_status(found)
    assert (status.state, status.step, status.total) == ("finished", 16, 16)  # as many as it took
    assert status.message.startswith("16 batches of every task: enough to know every mean batch cosine to within ±0.5.")
    assert [one.step for one in reported] == [*range(1, 17), 16]
    assert [one.total for one in reported] == [0] * 15 + [16, 16]  # 0: not known
    assert [one.eta_seconds for one in reported] == [None] * 15 + [0, None]
    assert table(found, "pairs")["step"].max() == 15

    # What was looked at is what an analysis of the record finds.
    pairs = table(found, "pairs")
    by_step = pairs.groupby(["branch", "task_i", "task_j", "step"], observed=True)["cos_before"].mean()
    widths = by_step.groupby(level=[0, 1, 2], observed=True).sem() * stats.t.ppf(0.975, 15)
    branch, one, other = widths.idxmax()
    mean = by_step.loc[branch, one, other].mean()
    name, said, width = re.fullmatch(r".* is that of (.*): (.*) ± (.*)\.", status.message).groups()
    assert name == f"{one} – {other} on branch {branch}"
    assert (float(said), float(width)) == (pytest.approx(mean, abs=6e-4), pytest.approx(widths.max(), abs=6e-4))


def test_the_command_probes_beside_the_run(run):
    result = CliRunner().invoke(command, ["probe", str(run), "--batches", "1", "--name", "command", "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(run.parent / "command")
    assert "1 batch of every task" in result.stderr
    assert read_run(run.parent / "command").probe == ProbeInfo(run="whole", step=3, seed=5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_with_its_record(tmp_path, number):
    def stop(status):
        if status.step == 2 and status.state == "running":
            signal.raise_signal(number)

    found = probe(config(), tmp_path, "x", goal=Goal(1000), report=stop)
    assert (read_status(found).state, read_status(found).step) == ("stopped", 2)
    assert sorted(table(found, "pairs")["step"].unique()) == [0, 1]
    with pytest.raises(OrthoLoraError, match="a probe is not gone on with: probe anew"):
        resume(found)


def test_a_loss_that_is_not_finite_fails_in_words(tmp_path, monkeypatch):
    plain = MultiTaskModel.loss
    monkeypatch.setattr(
        MultiTaskModel, "loss", lambda self, task, *of: plain(self, task, *of) * (float("nan") if task == 1 else 1)
    )
    with pytest.raises(OrthoLoraError, match=r"task 'movies': its loss is not finite in batch 0 \(loss nan\): no"):
        probe(config(), tmp_path, "x")
    assert read_status(tmp_path / "x").state == "failed"
    assert "the probe failed: task 'movies'" in (tmp_path / "x" / "log.txt").read_text()


def test_a_run_without_a_checkpoint_is_refused(tmp_path, run, probed):
    without = train(config(checkpoint_every=None, steps=1), tmp_path, "without")
    with pytest.raises(OrthoLoraError, match="without: there is no checkpoint to probe: it ended before its first one"):
        config_of(without)
    with pytest.raises(OrthoLoraError, match="it is a probe itself, at step 3 of run whole: ask for more --batches"):
        config_of(probed)
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
    found = diagnose(probed)
    assert (found.probe, found.steps, found.outcomes) == ("at step 3 of run whole", 3, ())
    assert found.summary.startswith("Probe at step 3 of run whole: There is not enough data")
    assert [suggestion.text for suggestion in found.suggestions if suggestion.kind == "more data"] == [
        "Probe more batches before judging these pairs."
    ]
    replayed = " ".join(CliRunner().invoke(app, ["replay", str(probed)]).stdout.split())
    assert replayed.startswith("probed: probe at step 3 of run whole, with ortho-lora; 3 batches replayed")
    assert {pair.branches[0].branch for pair in found.pairs} <= set(BRANCHES)
    json.dumps(found.document(), allow_nan=False)
