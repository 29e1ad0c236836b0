"""A step that does not end leaves nothing behind: the next one is that of a training without it."""

import copy

import pandas as pd
import pytest
import torch
from models import Problem, tiny_bert
from torch import nn
from ways_of_steps import SIZES, WAYS, backward

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status


class Breaks(torch.autograd.Function):
    """The identity, whose backward pass raises as a device without memory does."""

    @staticmethod
    def forward(ctx, states):
        return states.view_as(states)

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("out of memory")


def broken(problem):
    """A copy of the problem whose last backward pass ends in the middle of the model."""
    other = copy.copy(problem)
    other.states = lambda model, tokens: problem.states(model, tokens)
    layer = problem.model.get_base_model().encoder.layer[1]
    handle = layer.register_forward_pre_hook(lambda _, inputs: (Breaks.apply(inputs[0]), *inputs[1:]))
    return other, handle


def fail(problem, surgeon, way, **options):
    _, handle = broken(problem)
    with pytest.raises(torch.OutOfMemoryError):
        backward(problem, surgeon, way, **options)
    handle.remove()


def fail_late(problem, surgeon, way, **options):
    """The first micro-batch comes through, the second does not."""
    backward(problem, surgeon, way, accumulate=True)
    fail(problem, surgeon, way, **options)


def fail_forward(problem, surgeon, way, **options):
    backward(problem, surgeon, way, accumulate=True)
    if way == "alone":
        problem.zero()  # a forward pass is the loop's own: it throws the gradients away, as ever
        return
    with pytest.raises(ZeroDivisionError), surgeon.mixed_batch(problem.task_of_example):
        1 / 0  # noqa: B018


def discard(set_to_none):
    def leave(problem, surgeon, way, **options):
        backward(problem, surgeon, way, accumulate=True)
        torch.optim.SGD(problem.model.parameters()).zero_grad(set_to_none=set_to_none)

    return leave


def by_hand(problem, surgeon, way, **options):
    backward(problem, surgeon, way, accumulate=True)
    surgeon.reset()


FAILURES = {
    "out of memory": fail,
    "out of memory in the second micro-batch": fail_late,
    "an error in the forward pass of the second micro-batch": fail_forward,
    "a micro-batch discarded": discard(True),
    "a micro-batch set to zero": discard(False),
    "by hand": by_hand,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("method", ["ortho-lora", "pcgrad"])
@pytest.mark.parametrize("way", WAYS)
def test_the_next_step_is_that_of_a_training_without_it(tmp_path, way, method, failure):
    expected, found = [], []
    for steps, fails in ((expected, False), (found, True)):
        problem = Problem(tiny_bert(), SIZES)
        recorder = Recorder(tmp_path / f"run-{fails}", flush_seconds=0)
        surgeon = OrthoLoRA(problem.model, problem.tasks, method, recorder=recorder)
        optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
        for step in range(3):
            if fails and step == 1:
                FAILURES[failure](problem, surgeon, way)
            if not fails or failure != "a micro-batch set to zero":
                assert fails is False or all(p.grad is None for p in problem.model.parameters())
            measured = backward(problem, surgeon, way)
            steps.append((measured, problem.grads(), surgeon.step))
            optimizer.step()
            optimizer.zero_grad()
        recorder.close()
    for (one, gradients, step), (other, others, other_step) in zip(expected, found, strict=True):
        assert step == other_step
        assert one.order == other.order
        assert one.gram.equal(other.gram)
        assert one.losses.equal(other.losses)
        assert all(a.equal(b) for a, b in zip(gradients, others, strict=True))
    pairs = [pd.read_parquet(part_files(tmp_path / f"run-{fails}", "pairs")) for fails in (False, True)]
    pd.testing.assert_frame_equal(*pairs)
    events = pd.read_parquet(part_files(tmp_path / "run-True", "events"))
    assert events[["step", "event"]].values.tolist() == [[1, "dropped"]]
    reason = {
        "by hand": "by hand",
        "a micro-batch discarded": "set to zero",
        "a micro-batch set to zero": "set to zero",
    }
    if "error" not in failure:
        assert reason.get(failure, "OutOfMemoryError: out of memory") in events["reason"][0]
    assert not part_files(tmp_path / "run-False", "events")
    assert read_status(tmp_path / "run-True").step == 3


def test_a_rule_that_raises_drops_its_step(monkeypatch):
    problem = Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, "pcgrad")
    before = surgeon.generator.get_state()
    with monkeypatch.context() as patch:
        patch.setattr(surgeon.projector, "all", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backward(problem, surgeon, "mixed")
    assert surgeon.generator.get_state().equal(before)
    assert surgeon.step == 0
    again = Problem(tiny_bert(), SIZES)
    expected = backward(again, OrthoLoRA(again.model, again.tasks, "pcgrad"), "mixed")
    assert backward(problem, surgeon, "mixed").gram.equal(expected.gram)


def test_what_is_refused_drops_nothing_that_was_begun_elsewhere():
    """A wrong argument before the first pass of a step leaves gradients of the loop's own alone."""
    problem = Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    problem.loss(0).backward()
    before = problem.grads()
    with pytest.raises(OrthoLoraError, match="losses: none given"):
        surgeon.backward({})
    assert all(a.equal(b) for a, b in zip(problem.grads(), before, strict=True))


def test_gradients_that_are_zero_by_nature_are_no_discarded_step():
    """B = 0, so A has none; a head that is not watched is set to zero by nobody."""
    problem = Problem(tiny_bert(), [4, 4])
    for block in problem.blocks:
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    for last in (False, False, True):
        measured = backward(problem, surgeon, "alone", accumulate=not last)
    single = Problem(problem.model, [4, 4])
    expected = backward(single, OrthoLoRA(problem.model, problem.tasks), "alone")
    torch.testing.assert_close(measured.gram, 9 * expected.gram)
