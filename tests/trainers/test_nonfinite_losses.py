"""A loss that is not finite, under `OrthoLoRATrainer`."""

import math

import pytest
from texts import adapter, same, table, trainer
from transformers import TrainerCallback

from ortho_lora import OrthoLoraError, Recorder
from ortho_lora.record.schema import read_status


class Poison(TrainerCallback):
    """Makes the loss of every batch of the second task NaN, in one step."""

    def __init__(self, at, value=float("nan")):
        self.at, self.value, self.now = at, value, False

    def on_step_begin(self, args, state, control, **kwargs):
        self.now = state.global_step == self.at

    def watch(self, trained):
        plain, calls = trained.compute_loss, []

        def compute_loss(*args, **kwargs):
            calls.append(1)
            loss = plain(*args, **kwargs)
            return loss * self.value if self.now and len(calls) % 3 == 2 else loss

        trained.compute_loss = compute_loss
        trained.add_callback(self)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_a_training_and_names_the_task(tmp_path, value):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"))
    Poison(3, value).watch(trained)
    with pytest.raises(OrthoLoraError, match=rf"task 'b': its loss is not finite at step 3 \(loss {value}\)"):
        trained.train()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("failed", 4)
    assert "'b'" in status.message
    assert str(status.losses["b"]) == str(value)
    assert [(row["step"], row["event"], row["task"]) for row in table(tmp_path / "run", "events")] == [
        (3, "nonfinite", "b")
    ]


def test_a_loss_that_is_not_finite_is_skipped_and_shown(tmp_path):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), on_nonfinite="skip")
    before = []
    keep = {"on_step_begin": lambda *a, model, **k: before.append(adapter(model))}
    trained.add_callback(type("Keep", (TrainerCallback,), keep)())
    Poison(3).watch(trained)
    trained.train()
    same(before[3], before[4])
    with pytest.raises(AssertionError):
        same(before[4], before[5])
    logged = [entry["loss/b"] for entry in trained.state.log_history if "loss/b" in entry]
    assert [math.isnan(loss) for loss in logged] == [False, True, False]
    losses = [row["loss"] for row in table(tmp_path / "run", "steps") if row["task"] == "b"]
    assert [math.isnan(loss) for loss in losses] == [False, False, False, True, False, False]
    assert read_status(tmp_path / "run").state == "finished"
    assert [(row["step"], row["event"]) for row in table(tmp_path / "run", "events")] == [
        (3, "nonfinite"), (3, "skipped"),
    ]  # fmt: skip
