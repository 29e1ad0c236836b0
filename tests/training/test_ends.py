"""Runs that fail, are asked to end, or are refused before they begin."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
from small_runs import SMALL, table
from small_runs import config as small_config
from waiting import PATIENCE, wait_for

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_status
from ortho_lora.training import passes, session
from ortho_lora.training.train import train


@pytest.fixture
def config(tiny):
    return lambda **changes: small_config(**{"model": tiny, **changes})


def test_non_finite_loss_fails_naming_task_and_step_and_keeps_what_was_measured(config, tmp_path, monkeypatch):
    plain = session.MultiTaskModel.loss
    calls = []

    def explode(self, task, pooled, labels):
        calls.append(task)
        return plain(self, task, pooled, labels) * (float("nan") if calls.count(1) == 3 and task == 1 else 1)

    monkeypatch.setattr(session.MultiTaskModel, "loss", explode)
    monkeypatch.setattr(passes, "TOKENS_OF_A_PASS", {"cpu": 10**9})  # one pass a step
    with pytest.raises(OrthoLoraError, match=r"task 'movies': its loss is not finite at step 2 .*learning_rate"):
        train(config(), tmp_path, "broken")
    status = read_status(tmp_path / "broken")
    assert status.state == "failed"
    assert "'movies'" in status.message
    losses = table(tmp_path / "broken", "steps").pivot(index="step", columns="task", values="loss")
    assert list(losses.index) == [0, 1, 2]
    assert losses.isna().sum().to_dict() == {"trec": 0, "movies": 1, "movies-flip1": 0}
    (event,) = table(tmp_path / "broken", "events").to_dict("records")
    assert event == {"step": 2, "event": "nonfinite", "task": "movies", "reason": "its loss is not finite (loss nan)"}
    assert math.isnan(status.losses["movies"])
    assert math.isfinite(status.losses["trec"])


def test_a_step_whose_loss_is_not_finite_can_be_skipped(config, tmp_path, monkeypatch):
    """The heads too stay as they are; of method `single` only the task's own adapter misses the step."""
    plain = session.MultiTaskModel.loss
    plain_step = session.Training._train_step
    seen, bad = [], []

    def look(self):
        bad[:] = [self.place.step == 2]
        before = {name: value.clone() for name, value in self.checkpoint.trained.items()}
        plain_step(self)
        seen.append({name for name, value in self.checkpoint.trained.items() if not value.equal(before[name])})

    monkeypatch.setattr(session.Training, "_train_step", look)
    monkeypatch.setattr(
        session.MultiTaskModel,
        "loss",
        lambda self, task, *of: plain(self, task, *of) * (float("nan") if bad[0] and task == 1 else 1),
    )
    for method in ("ortho-lora", "single"):
        seen.clear()
        train(config(method=method, tasks=["trec", "movies"], on_nonfinite="skip"), tmp_path, method)
        status = read_status(tmp_path / method)
        assert (status.state, status.step) == ("finished", 5)
        events = table(tmp_path / method, "events")
        assert list(zip(events["step"], events["event"], strict=True)) == [(2, "nonfinite"), (2, "skipped")]
        assert list(events["task"].dropna()) == ["movies"]
        losses = table(tmp_path / method, "steps").pivot(index="step", columns="task", values="loss")
        assert list(losses.index[losses["movies"].isna()]) == [2]
        assert [bool(changed) for changed in seen] == [True, True, method == "single", True, True]
        if method == "single":
            assert not any("task1" in name or "heads.1" in name for name in seen[2])
            assert any("task1" in name for name in seen[3])


def test_a_directory_that_is_deleted_during_training_ends_it_with_the_reason(config, tmp_path):
    def delete(status):
        if status.step == 2:
            shutil.rmtree(tmp_path / "x", ignore_errors=True)

    with pytest.raises(OrthoLoraError, match="x: the run's directory is gone: it was deleted, moved or unmounted"):
        train(config(steps=10_000, flush_seconds=0.01), tmp_path, "x", report=delete)


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signal_ends_the_step_and_saves(tiny, tmp_path, number, ended):
    given = SMALL | {"model": tiny}
    settings = [f"{key}={json.dumps(value)}" for key, value in given.items() if key not in ("tasks", "steps")]
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
        [sys.executable, "-m", "ortho_lora", "train", "--tasks", "trec,movies", "--steps", "100000",
         "--runs-dir", str(tmp_path), "--name", "long", *[f"--set={setting}" for setting in settings]],
        stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: (status := read_status(tmp_path / "long")) and status.step >= 3, process, output)
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == ended, output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    status = read_status(tmp_path / "long")
    assert status.state == "stopped"
    steps = table(tmp_path / "long", "steps")
    assert steps["step"].max() == status.step - 1
    assert (tmp_path / "long" / "adapter" / "adapter_model.safetensors").exists()


def test_bad_data_fails_before_the_model_is_loaded_and_leaves_no_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "load_encoder", lambda name: pytest.fail("the model was loaded"))
    mine = {"name": "mine", "path": str(tmp_path / "absent.csv"), "text": "a", "label": "b"}
    with pytest.raises(OrthoLoraError, match=r"absent\.csv"):
        train(config(tasks=[mine]), tmp_path / "runs", "x")
    assert not (tmp_path / "runs" / "x").exists()


def test_unknown_model_is_refused_in_words(config, tmp_path):
    with pytest.raises(OrthoLoraError, match="no such directory; give one that holds config.json"):
        train(config(model="./absent"), tmp_path, "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OrthoLoraError, match="cannot be loaded: expected 'minilm', 'smollm2', a directory or a hub id"):
        train(config(model=str(tmp_path / "empty")), tmp_path, "x")


def test_target_modules_that_do_not_exist_are_refused_with_those_that_do(config, tmp_path):
    with pytest.raises(OrthoLoraError, match="target_modules: q_proj given .* are dense, key, query, value"):
        train(config(target_modules=["q_proj"]), tmp_path, "x")
