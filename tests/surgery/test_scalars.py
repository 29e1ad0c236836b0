"""What a training may log, against means written out."""

import math
from dataclasses import replace

import pytest
import torch

from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.scalars import Scalars

TASKS = ["a", "b", "c"]


def measured(seed, losses=(1.0, 2.0, 3.0), blocks=4):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(blocks, 3, 5, generator=generator, dtype=torch.float64)
    projected = torch.rand(blocks, 3, 3, generator=generator) < 0.4
    return Measured(
        losses=torch.tensor(losses, dtype=torch.float64),
        gram=gradients @ gradients.mT,
        half_products=torch.full((blocks, 3), torch.nan),
        coefficients=torch.eye(3, dtype=torch.float64).expand(blocks, 3, 3),
        projected=projected & ~torch.eye(3, dtype=torch.bool),
        present=torch.ones(blocks, 3, dtype=torch.bool),
        order=(0, 1, 2),
    )


def cosine(gram, i, j):
    return float(gram[i, j] / (gram[i, i] * gram[j, j]).sqrt())


def test_means_are_those_of_the_steps():
    scalars, steps = Scalars(TASKS, projects=True), [measured(seed, (seed + 1.0, 2.0, 3.0)) for seed in range(5)]
    for step in steps:
        scalars.add(step)
    found = scalars.take()
    assert found["loss/a"] == pytest.approx(3.0)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = f"{TASKS[i]}~{TASKS[j]}"
        whole = torch.tensor([cosine(step.gram.sum(0), i, j) for step in steps])
        assert found[f"cosine/{pair}"] == pytest.approx(whole.mean().item(), abs=1e-6)
        assert found[f"cosine_error/{pair}"] == pytest.approx(whole.std().item() / math.sqrt(5), abs=1e-6)
        each = [cosine(gram, i, j) < 0 for step in steps for gram in step.gram]
        assert found[f"conflict_rate/{pair}"] == pytest.approx(sum(each) / len(each))
    for i, task in enumerate(TASKS):
        times = sum(int(step.projected[:, i].sum()) for step in steps)
        assert found[f"projected/{task}"] == pytest.approx(times / (5 * 4 * 2))
    assert scalars.take() == {}  # begun anew


def test_what_is_not_known_is_not_told_and_what_is_not_finite_is():
    scalars = Scalars(TASKS, projects=False)
    step = measured(0, (1.0, math.nan, math.nan))
    last = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    known = torch.tensor([True, True, False])
    scalars.add(replace(step, known=known, gram=step.gram * last * last[:, None]))
    found = scalars.take()
    assert found["loss/a"] == 1
    assert math.isnan(found["loss/b"])
    assert "loss/c" not in found
    assert not [name for name in found if "c" in name.split("/")[1].split("~")]  # its gradient is 0
    assert not [name for name in found if name.startswith(("projected", "cosine_error"))]  # of one step


def test_of_many_tasks_there_are_only_the_mean_and_the_lowest():
    scalars, step = Scalars(TASKS, projects=False), measured(1)
    scalars.add(step)
    found = scalars.take(pairs=False)
    cosines = [cosine(step.gram.sum(0), i, j) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["cosine/mean"] == pytest.approx(sum(cosines) / 3, abs=1e-6)
    assert found["cosine/lowest"] == pytest.approx(min(cosines), abs=1e-6)
    assert {"loss/a", "loss/b", "loss/c", "conflict_rate/mean"} < set(found)
    assert len(found) == 6
