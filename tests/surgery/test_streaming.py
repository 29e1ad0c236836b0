"""Blocks that are projected while backward goes on."""

import torch
from models import Problem, tiny_bert
from ways_of_steps import SIZES, assert_close, backward

from ortho_lora import OrthoLoRA
from ortho_lora.surgery import streaming


def test_streaming_gives_what_projecting_at_the_end_gives(monkeypatch):
    problem = Problem(tiny_bert(layers=3), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed", method="ortho-lora-b")
    monkeypatch.setattr(surgeon.streaming, "is_possible", lambda: False)
    first = backward(problem, surgeon, "mixed")
    monkeypatch.undo()
    update = problem.grads()
    for size in (1, 3000, 10**9):
        monkeypatch.setattr(streaming, "PENDING_BYTES", size)
        problem.zero()
        again = backward(problem, surgeon, "mixed")
        assert_close(problem.grads(), update, 1e-12, 1e-15)
        for name in ("gram", "half_products", "coefficients", "projected"):
            torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=1e-12, atol=1e-15)


def test_streaming_holds_few_gradients_at_a_time(monkeypatch):
    problem = Problem(tiny_bert(layers=4), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    most = []
    plain = surgeon.streaming.complete

    def watch(step, index):
        pending = (of for waiting in step.pending.values() for of in waiting.collected)
        held = (*surgeon.collector._collected, *pending)
        most[-1] = max(most[-1], sum(of.parts is not None for of in held))
        plain(step, index)

    surgeon.streaming.complete = watch
    for size in (1, 10**9):
        monkeypatch.setattr(streaming, "PENDING_BYTES", size)
        most.append(0)
        backward(problem, surgeon, "mixed")
        problem.zero()
    assert most[0] <= 2
    assert most[1] == len(problem.blocks)
