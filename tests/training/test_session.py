"""What a training starts from."""

import threading

import torch

from ortho_lora.training.config import load_config
from ortho_lora.training.session import Training, tasks_of


def test_a_task_starts_as_it_does_alone() -> None:
    """Else what another task does to it could not be told from another start."""

    def start(tasks: list[str]) -> Training:
        config = load_config(overrides={"tasks": tasks, "method": "joint", "max_length": 8, "threads": 1})
        return Training(config, tasks_of(config), lambda status: None, threading.Event())

    alone, beside = start(["spam"]), start(["trec", "spam"])
    for one, other in zip(alone.model.heads[0].parameters(), beside.model.heads[1].parameters(), strict=True):
        assert torch.equal(one, other)
    adapters = [[block.parameter for block in of.groups[0].surgeon.blocks] for of in (alone, beside)]
    assert all(torch.equal(one, other) for one, other in zip(*adapters, strict=True))
    assert [alone.sampler.next() for _ in range(3)] == [beside.sampler.next()[1:] for _ in range(3)]
    first, second = (next(head.parameters()) for head in beside.model.heads)
    assert not torch.equal(first[: len(second)], second)
