"""Lookaheads from checkpoints of real runs."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import content, table
from typer.testing import CliRunner

from analysis.library.runs import list_runs, runs_table
from analysis.summary import summarise
from analysis.transfer.realized import realized, realized_progress
from ortho_lora.__main__ import app as command
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.admission import lock_run
from ortho_lora.record.schema import read_run, read_status
from ortho_lora.record.tables import TABLES
from ortho_lora.surgery.nonfinite import Nonfinite
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training import lookahead as module
from ortho_lora.training.config import load_config
from ortho_lora.training.effects import Plan
from ortho_lora.training.lookahead import batches_of, config_of, lookahead
from ortho_lora.training.model import MultiTaskModel
from ortho_lora.training.probe import config_of as config_of_probe
from ortho_lora.training.resume import resume
from ortho_lora.training.session import Training
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies", "spam"],
    "batch_size": 4,
    "steps": 3,
    "eval_examples": 8,
    "max_length": 16,
    "rank": 2,
    "schedule": "constant",
    "threads": 1,
}
TASKS = ["trec", "movies", "spam"]


def config(**changes):
    return load_config(overrides=SMALL | changes)


@pytest.fixture(scope="module", autouse=True)
def _small(tiny):
    SMALL["model"] = tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with dropout."""
    return train(config(), tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture(scope="module")
def found(run):
    """Two draws of two steps from the end of that run; it lies beside it."""
    return lookahead(config_of(run), run.parent, "ahead", of=run, plan=Plan(2, 2))


def value(rows, source, target, part="difference", draw=0):
    of = rows[(rows["draw"] == draw) & (rows["target"] == target) & (rows["part"] == part)]
    of = of[of["source"].isna() if source is None else of["source"] == source]
    assert len(of) == 1
    return of["value"].item()


def test_it_records_every_ordered_pair_and_nothing_else(run, found):
    status, info = read_status(found.run_dir), read_run(found.run_dir)
    assert (status.state, status.step, status.total, status.phase) == ("finished", 16, 16, "done")
    assert info.probe.what == "lookahead of 2 steps at step 3 of run whole"
    assert {name for name in TABLES if len(table(found.run_dir, name))} == {"lookahead"}
    rows = table(found.run_dir, "lookahead").astype({"source": object, "target": str, "part": str})
    assert set(rows["step"]) == {3}
    keys = rows[["draw", "source", "target", "part"]].fillna("-")
    assert set(keys.itertuples(index=False, name=None)) == {
        (draw, source, target, part)
        for draw in (0, 1)
        for source in ("-", *TASKS)
        for target in TASKS
        for part in (("difference",) if source == "-" else ("difference", "odd", "even"))
    }
    assert len(keys) == len(keys.drop_duplicates())
    assert np.isfinite(rows["value"]).all()
    assert (rows["error"] > 0).all()
    assert set(rows["examples"]) == {8}
    assert not (found.run_dir / "adapter").exists()
    assert not (found.run_dir / "checkpoint").exists()
    assert "lookahead of 2 steps at step 3 of run whole on" in (found.run_dir / "log.txt").read_text()


def test_the_run_is_only_read_also_while_another_process_writes_it(run, tmp_path):
    lock = lock_run(run)
    try:
        before = content(run)
        lookahead(config_of(run), tmp_path, "x", of=run, plan=Plan(1, 1))
        assert content(run) == before
    finally:
        lock.release()


def test_with_all_tasks_it_is_what_a_resumed_run_trains(tmp_path, monkeypatch):
    """Bit for bit, on the batches that the run would have drawn, amid warm-up and with gradients clipped."""
    settings = config(dropout=0.0, steps=4, eval_every=2, checkpoint_every=2, clip=0.05, warmup_steps=3)
    parameters = []

    def stop(status):
        if (status.step, status.phase) == (2, "training"):
            signal.raise_signal(signal.SIGTERM)

    run = train(settings, tmp_path, "whole", report=stop)
    assert read_status(run).step == 2
    drawn = []
    plain, plain_losses = Training.advance, module._Looking.losses_at

    def advance(self, indices, **of):
        drawn.append(indices)
        return plain(self, indices, **of)

    def losses_at(self, at, splits):
        if splits is self.held_out:
            parameters.append({name: value.clone() for name, value in at.items()})
        return plain_losses(self, at, splits)

    def batches(tasks, batch_size, steps, **of):
        training = Training(settings, tasks, print, None)
        training.restore(run)
        return [training.sampler.next() for _ in range(steps)]

    with monkeypatch.context() as patch:
        patch.setattr(module, "batches_of", batches)
        patch.setattr(module._Looking, "losses_at", losses_at)
        ahead = lookahead(config_of(run), tmp_path, "ahead", of=run, plan=Plan(2, 1)).run_dir
        patch.setattr(Training, "advance", advance)
        resume(run)
    saved = torch.load(run / "checkpoint" / "state.pt", weights_only=True)["parameters"]
    assert len(drawn) == 2
    assert any(not torch.equal(saved[name], value) for name, value in parameters[0].items())
    assert saved.keys() == parameters[1].keys()
    assert all(torch.equal(saved[name], value) for name, value in parameters[1].items())
    rows = table(ahead, "lookahead").astype({"source": object})
    metrics = table(run, "metrics")
    loss = metrics[metrics["metric"] == "loss"].set_index(["task", "step"])["value"]
    for task in TASKS:
        assert value(rows, None, task) == pytest.approx(loss[task, 4] - loss[task, 2], abs=1e-6)


@pytest.mark.parametrize("mode", ["fused", "sequential"])
def test_effects_are_those_of_a_plain_loop(tmp_path, mode):
    """AdamW on the sum of losses, from the run's checkpoint, with dropout off."""
    run = train(config(dropout=0.0, method="joint", gradient_mode=mode), tmp_path, "whole")
    settings = config_of(run, {"batch_size": 5})
    rows = table(lookahead(settings, tmp_path, "x", of=run, plan=Plan(3, 2), seed=7).run_dir, "lookahead")
    rows = rows.astype({"source": object})
    tasks = load_tasks(settings.tasks, settings.seed)
    training = Training(settings, tasks, print, None)

    def losses():
        """Of all of the evaluated examples."""
        with torch.no_grad():
            return torch.stack(
                [
                    training.passes.loss(name, (subset["validation"], list(range(len(subset["validation"])))))
                    for name, subset in zip(TASKS, training.subsets, strict=True)
                ]
            )

    def at(moved):
        with torch.no_grad():
            for parameter, start, by in zip(trained, begin, moved, strict=True):
                parameter.copy_(start + by)
        return losses()

    def walked(draw, without):
        training.restore(run)
        batches = batches_of(tasks, 5, 3, seed=7, step=3, draw=draw)
        for step in batches:
            training.optimizer.zero_grad()
            for task, indices in zip(tasks, step, strict=True):
                if task.name != without:
                    training.passes.loss(task.name, (task.train, indices)).backward()
            training.optimizer.step()
        return [parameter.detach() - start for parameter, start in zip(trained, begin, strict=True)]

    training.model.eval()
    training.groups[0].surgeon.remove()
    training.restore(run)
    trained = list(training.checkpoint.trained.values())
    begin = [parameter.detach().clone() for parameter in trained]
    before, slopes = losses(), []
    for name, subset in zip(TASKS, training.subsets, strict=True):
        training.optimizer.zero_grad()
        training.passes.loss(name, (subset["validation"], list(range(8)))).backward()
        slopes.append([torch.zeros(()) if of.grad is None else of.grad.clone() for of in trained])
    for draw in range(2):
        everybody = walked(draw, None)
        after = at(everybody)
        for source in TASKS:
            others = walked(draw, source)
            moved = [one - other for one, other in zip(everybody, others, strict=True)]
            there, back = at(moved), at([-by for by in moved])
            expected = {
                "difference": after - at(others),
                "odd": torch.stack([sum((of[at] * by).sum() for at, by in enumerate(moved)) for of in slopes]),
                "even": (there + back) / 2 - before,
            }
            assert expected["odd"] == pytest.approx((there - back) / 2, rel=0.02, abs=3e-6)
            for part, values in expected.items():
                for target, nats in zip(TASKS, values.tolist(), strict=True):
                    assert value(rows, source, target, part, draw) == pytest.approx(nats, abs=3e-6), (part, source)


def test_dropout_is_that_of_the_draw_whoever_is_left_out(run, monkeypatch):
    """What reaches the heads from the texts of the others in the first step is the same."""
    plain, seen = MultiTaskModel.loss, []

    def loss(self, task, pooled, labels):
        if torch.is_grad_enabled():
            seen.append((task, pooled.detach().clone()))
        return plain(self, task, pooled, labels)

    monkeypatch.setattr(MultiTaskModel, "loss", loss)
    for mode in ("fused", "sequential"):
        settings = load_config(overrides=config_of(run).model_dump() | {"gradient_mode": mode})
        tasks = load_tasks(settings.tasks, settings.seed)
        training = Training(settings, tasks, print, None)
        assert settings.dropout > 0
        states = []
        for without, chance in ((None, 1), ("movies", 1), (None, 2)):
            seen.clear()
            training.restore(run)
            training.advance(batches_of(tasks, 4, 1, seed=0, step=3, draw=0)[0], without=without, chance=chance)
            states.append({task: [of for by, of in seen if by == task] for task in (0, 2)})
        assert all(states[0].values())
        for task in (0, 2):
            pairs = list(zip(states[0][task], states[1][task], strict=True))
            assert all(torch.equal(one, other) for one, other in pairs)
            assert not all(torch.equal(one, other) for one, other in zip(states[0][task], states[2][task], strict=True))


def test_a_task_that_is_left_out_has_no_gradient_and_its_head_stays(run):
    training = Training(config(), load_tasks(config().tasks, 0), print, None)
    for mode in ("fused", "sequential"):
        training.mode = mode
        training.restore(run)
        head = training.model.heads[1].weight.detach().clone()
        (measured,), (problems,) = training.advance([[0, 1], [2, 3], [4, 5]], without="movies", chance=0)
        assert not problems
        assert measured.given.tolist() == [True, False, True]
        assert (measured.gram[:, 1] == 0).all()
        assert (measured.gram[:, 0, 0] > 0).any()
        assert torch.equal(training.model.heads[1].weight, head)


def test_where_the_learning_rate_has_gone_to_0_it_is_the_configured_one(tmp_path):
    """A step of SGD ends where it does from there with a constant schedule."""
    ended = train(config(schedule="linear", steps=2, optimizer="sgd", method="joint"), tmp_path, "ended")
    saved = torch.load(ended / "checkpoint" / "state.pt", weights_only=True)
    assert [group["lr"] for group in saved["optimizer"]["param_groups"]] == [0, 0]
    rows = table(lookahead(config_of(ended), tmp_path, "x", of=ended, plan=Plan(2, 1)).run_dir, "lookahead")
    assert read_run(tmp_path / "x").config["schedule"] == "constant"
    for group in saved["optimizer"]["param_groups"]:
        group["lr"] = group["initial_lr"]
    torch.save(saved, ended / "checkpoint" / "state.pt")
    settings = config(steps=2, optimizer="sgd", method="joint")
    expected = table(lookahead(settings, tmp_path, "y", of=ended, plan=Plan(2, 1)).run_dir, "lookahead")
    assert (expected["value"] != 0).all()
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)


def test_draws_are_of_a_seed(run, found, tmp_path):
    settings = config_of(run)
    rows = {
        name: table(lookahead(settings, tmp_path, name, of=run, plan=Plan(2, 1), seed=seed).run_dir, "lookahead")
        for name, seed in (("same", None), ("other", 1))
    }
    known = table(found.run_dir, "lookahead")
    first = known[known["draw"] == 0].reset_index(drop=True)
    values = ["value", "error"]
    pd.testing.assert_frame_equal(rows["same"][values], first[values], check_exact=True)
    assert not rows["other"]["value"].equals(first["value"])
    assert not np.array_equal(known.loc[known["draw"] == 1, "value"], first["value"])
    assert read_run(tmp_path / "other").probe.seed == 1


def test_what_is_read_is_what_was_found(found):
    frame, document = realized(found.run_dir), found.document()
    assert (document["lookahead"], document["step"], document["steps"], document["draws"]) == (
        str(found.run_dir), 3, 2, 2,
    )  # fmt: skip
    json.dumps(document, allow_nan=False)
    said = pd.DataFrame([effect for effect in document["effects"] if effect["source"]])
    both = frame.merge(said, on=["source", "target", "part"], suffixes=("", "_said"))
    assert len(both) == len(frame) == len(said) == 27
    for name in ("nats", "low", "high", "q"):
        np.testing.assert_array_equal(both[name], both[f"{name}_said"].astype(float))
    assert (frame["step"].unique().tolist(), frame["steps"].unique().tolist()) == ([3], [2])
    for part, of_part in frame.groupby("part"):
        for name in ("reliability", "ceiling"):  # whose rows are summed in another order
            assert of_part[name].unique() == pytest.approx([document[name][part]])
    progress = realized_progress(found.run_dir).set_index("target")["nats"]
    assert progress.to_dict() == {of["target"]: of["nats"] for of in document["effects"] if not of["source"]}


def test_the_record_is_listed_as_what_it_is(run, found):
    frame = runs_table(list_runs(run.parent)).set_index("run")
    assert frame.loc["ahead", "method"] == "ortho-lora, lookahead of 2 steps at step 3 of run whole"
    document = summarise(found.run_dir)
    assert (document["probe"], document["ahead"], document["pairs"]) == ("at step 3 of run whole", 2, [])


def test_the_command_looks_ahead_beside_the_run(run):
    result = CliRunner().invoke(
        command,
        ["lookahead", str(run), "--steps=1", "--draws=2", "--batch-size=3", "--name", "command", "--seed=5"],
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(run.parent / "command")
    for source in TASKS:
        for target in TASKS:
            assert result.stdout.count(f"{source} → {target} ") == (source != target)
    info = read_run(run.parent / "command")
    assert (info.probe.seed, info.probe.steps, info.config["batch_size"]) == (5, 1, 3)
    assert "2 draws of 1 step, with and without each task: of 6 ordered pairs these are sure: " in result.stderr


def test_the_command_prints_json(run):
    result = CliRunner().invoke(
        command, ["lookahead", str(run), "--steps", "1", "--draws", "1", "--name", "json", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert read_run(run.parent / "json").config["batch_size"] == 4 * read_run(run).config["batch_size"]  # unless told
    found = json.loads(result.stdout)
    assert found["reliability"] == found["ceiling"] == dict.fromkeys(("difference", "odd", "even"))
    assert len(found["effects"]) == 3 + 27
    assert {(effect["low"], effect["high"], effect["q"]) for effect in found["effects"]} == {(None, None, None)}
    assert "1 draw of 1 step, with and without each task: one draw has no interval" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_draws_that_are_complete(run, tmp_path, number):
    def stop(status):
        if (status.state, status.step) == ("running", 2 * 4 + 3):  # of the third draw of single steps
            signal.raise_signal(number)

    found = lookahead(config_of(run), tmp_path, "x", of=run, plan=Plan(1, 1000), report=stop)
    assert (read_status(found.run_dir).state, found.draws) == ("stopped", 2)
    assert read_status(found.run_dir).step == 2 * 4 + 3
    assert set(table(found.run_dir, "lookahead")["draw"]) == {0, 1}
    assert set(realized(found.run_dir)["draws"]) == {2}
    with pytest.raises(OrthoLoraError, match="a lookahead is not gone on with: look ahead anew"):
        resume(found.run_dir)


def test_a_kill_keeps_them_too(run, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from ortho_lora.training.effects import Plan
from ortho_lora.training.lookahead import config_of, lookahead
run = Path({str(run)!r})
def kill(status):
    if status.step == 4 + 2:
        os.kill(os.getpid(), signal.SIGKILL)
lookahead(config_of(run), Path({str(tmp_path)!r}), "x", of=run, plan=Plan(1, 3), report=kill)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(table(tmp_path / "x", "lookahead")["draw"]) == {0}
    assert len(realized(tmp_path / "x")) == 27


def test_stopped_before_a_draw_is_complete_it_records_nothing(run, tmp_path):
    def stop(status):
        if status.state == "running":
            signal.raise_signal(signal.SIGINT)

    found = lookahead(config_of(run), tmp_path, "x", of=run, plan=Plan(1, 2), report=stop)
    status = read_status(found.run_dir)
    assert (status.state, found.draws, found.effects) == ("stopped", 0, ())
    assert status.message == "Stopped before a draw was complete."
    assert realized(found.run_dir).empty


def test_a_loss_that_is_not_finite_fails_in_words(run, tmp_path, monkeypatch):
    plain = Training.advance

    def advance(self, indices, **of):
        measured, found = plain(self, indices, **of)
        return measured, [[Nonfinite("trec", "loss", float("nan"))]] if of["without"] == "spam" else found

    monkeypatch.setattr(Training, "advance", advance)
    sentence = r"task 'trec': its loss is not finite in step 0 of draw 0, without spam \(loss nan\)"
    with pytest.raises(OrthoLoraError, match=f"lookahead: {sentence}: train with a lower"):
        lookahead(config_of(run), tmp_path, "x", of=run, plan=Plan(1, 1))
    assert read_status(tmp_path / "x").state == "failed"
    assert "the lookahead failed: lookahead: task 'trec'" in (tmp_path / "x" / "log.txt").read_text()


def test_what_cannot_be_looked_ahead_from_is_refused_before_anything_is_loaded(run, found, tmp_path, monkeypatch):
    monkeypatch.setattr("ortho_lora.training.lookahead.tasks_of", lambda *of: pytest.fail("data were loaded"))
    with pytest.raises(OrthoLoraError, match="it is no run but a lookahead of 2 steps at step 3 of run whole: look"):
        config_of(found.run_dir)
    with pytest.raises(OrthoLoraError, match="it is no run but a lookahead of 2 steps at step 3 of run whole: probe"):
        config_of_probe(found.run_dir)
    with pytest.raises(OrthoLoraError, match="not a run"):
        config_of(tmp_path)
    with pytest.raises(
        OrthoLoraError, match="learning_rate: looking ahead goes on with the run's own settings; only b"
    ):
        config_of(run, {"learning_rate": 1e-4, "batch_size": 3})
    with pytest.raises(OrthoLoraError, match="steps: 0 given, expected at least 1"):
        Plan(steps=0)
    with pytest.raises(OrthoLoraError, match="draws: -1 given, expected at least 1"):
        Plan(draws=-1)
    with pytest.raises(OrthoLoraError, match="run 'whole' exists in"):
        lookahead(config_of(run), run.parent, "whole", of=run)
    for changes, sentence in (
        ({"method": "single"}, "method 'single' gives each task an adapter of its own, so no task does anything"),
        ({"tasks": ["trec"]}, "its only task is trec, expected at least two, one to leave out"),
    ):
        other = tmp_path / next(iter(changes))
        (other / "checkpoint").mkdir(parents=True)
        (other / "checkpoint" / "state.pt").write_bytes(b"")
        info = read_run(run)
        info = info.model_copy(update={"config": config(**changes).model_dump(mode="json")})
        (other / "run.json").write_text(info.model_dump_json())
        (other / "status.json").write_bytes((run / "status.json").read_bytes())
        with pytest.raises(OrthoLoraError, match=sentence):
            config_of(other)
        (other / "checkpoint" / "state.pt").unlink()
        with pytest.raises(OrthoLoraError, match="there is no checkpoint to look ahead from"):
            config_of(other)
