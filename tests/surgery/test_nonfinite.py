"""Losses and gradients that are not finite, in a loop of the user's own, against a loop without those steps."""

import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from models import Problem, tiny_bert

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import Status, read_status
from ortho_lora.record.writer import new_status

BAD = 2


def table(run_dir, name):
    return [row for part in part_files(run_dir, name) for row in pq.read_table(part).to_pylist()]


def train(steps, *, bad=None, value=math.nan, mixed=False, recorder=None, scaler=None, **given):
    """Parameters after some steps, of which one has a loss of the second task that is not finite."""
    problem = Problem(tiny_bert().float(), [4, 4, 4])
    tokens = problem.tokens
    trained = [parameter for parameter in problem.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed", optimizer=optimizer, recorder=recorder, **given)
    seen = []
    for step in steps:
        problem.tokens = [torch.roll(of_task, step, 1) for of_task in tokens]  # each step has texts of its own

        def spoiled(losses, step=step):
            task = problem.tasks[1]
            return losses | {task: losses[task] * value} if step == bad else losses

        if mixed:
            with surgeon.mixed_batch(problem.task_of_example):
                seen.append(surgeon.backward(spoiled(problem.mixed_losses())))
        else:
            seen.append(surgeon.backward(spoiled(problem.losses()), scaler=scaler))
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
    surgeon.remove()
    return [parameter.detach().clone() for parameter in trained], seen


def same(found, expected):
    return all(one.equal(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
def test_by_default_the_step_ends_the_loop_and_names_the_task(tmp_path, value, mixed):
    with (
        pytest.raises(OrthoLoraError, match=rf"task 'b': its loss is not finite at step {BAD} \(loss {value}\): the"),
        Recorder(tmp_path / "run") as recorder,
    ):
        train(range(5), bad=BAD, value=value, mixed=mixed, recorder=recorder)
    status = read_status(tmp_path / "run")
    assert status.state == "failed"
    assert "task 'b'" in status.message
    assert str(status.losses["b"]) == str(value)
    assert [row["task"] for row in table(tmp_path / "run", "events")] == ["b"]
    losses = {(row["step"], row["task"]): row["loss"] for row in table(tmp_path / "run", "steps")}
    assert str(losses[BAD, "b"]) == str(value)
    assert all(math.isfinite(loss) for key, loss in losses.items() if key != (BAD, "b"))


@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
@pytest.mark.parametrize("given", [{}, {"rule": "gradvac"}, {"method": "joint"}], ids=["ortho", "gradvac", "joint"])
def test_a_skipped_step_leaves_a_training_as_it_would_be_without_it(tmp_path, mixed, given):
    with Recorder(tmp_path / "run") as recorder:
        found, seen = train(range(5), bad=BAD, mixed=mixed, recorder=recorder, on_nonfinite="skip", **given)
    expected, _ = train([step for step in range(5) if step != BAD], mixed=mixed, **given)
    assert same(found, expected)
    assert [measured.skipped for measured in seen] == [step == BAD for step in range(5)]
    assert read_status(tmp_path / "run").state == "finished"
    events = [(row["step"], row["event"], row["task"], row["reason"]) for row in table(tmp_path / "run", "events")]
    assert events == [
        (BAD, "nonfinite", "b", "its loss is not finite (loss nan)"),
        (BAD, "skipped", None, f"task 'b': its loss is not finite at step {BAD} (loss nan)"),
    ]


@pytest.mark.parametrize("value", [math.nan, 1e35], ids=["loss", "gradient"])
def test_what_overflows_under_a_scaler_is_left_to_it(tmp_path, value):
    """In float16 that is ordinary: the scaler leaves the step out, and lowers its scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with Recorder(tmp_path / "run") as recorder:
        found, seen = train(range(5), bad=BAD, value=value, recorder=recorder, scaler=scaler)
    assert scaler.get_scale() == 2.0**15
    expected, _ = train([step for step in range(5) if step != BAD])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert [measured.skipped for measured in seen] == [step == BAD for step in range(5)]
    what = "loss" if math.isnan(value) else "gradient"
    events = [(row["step"], row["event"], row["task"]) for row in table(tmp_path / "run", "events")]
    assert events == [(BAD, "nonfinite", "b"), (BAD, "skipped", None)]
    assert f"its {what} is not finite" in table(tmp_path / "run", "events")[0]["reason"]
    assert read_status(tmp_path / "run").state == "finished"


def test_a_task_that_is_missing_is_not_taken_for_one_whose_loss_is_nan(tmp_path):
    problem = Problem(tiny_bert(), [4, 4, 4])
    with Recorder(tmp_path / "run") as recorder:
        surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder, on_nonfinite=None)
        surgeon.backward(problem.losses(["a", "c"]))
        problem.zero()
        surgeon.backward(problem.losses() | {"b": problem.loss(1) * math.nan})
        assert set(recorder._status.status.losses) == {"a", "b", "c"}
    losses = [row["loss"] for row in table(tmp_path / "run", "steps") if row["task"] == "b"]
    assert losses[0] is None
    assert math.isnan(losses[1])
    assert [row["step"] for row in table(tmp_path / "run", "events")] == [1]


def test_losses_that_are_not_finite_come_back_from_the_status(tmp_path):
    losses = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    written = new_status(5).model_copy(update={"losses": losses}).model_dump_json()
    json.loads(written, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert str(Status.model_validate_json(written).losses) == str(losses)
    former = json.dumps(json.loads(written) | {"losses": {"a": None, "d": 0.5}})
    assert str(Status.model_validate_json(former).losses) == "{'a': nan, 'd': 0.5}"
