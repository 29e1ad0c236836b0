"""What the record keeps of a snapshot's gradients themselves, against autograd and the steps that they predict."""

import numpy as np
import pytest
import torch
from loops import BATCHES, TASKS, Loop, in_groups, texts
from models import tiny_bert

from ortho_lora.record.transfer import progress, second_moment, transfer


@pytest.fixture
def loop() -> Loop:
    return Loop(tiny_bert())


def test_they_are_those_of_autograd(loop):
    parameters = [block.parameter for block in loop.surgeon.blocks]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, eps=1e-6)
    held = {"films": texts(9, 9)}
    found = loop.surgeon.snapshot(loop.batches, loop.loss, targets=held, optimizer=optimizer).vectors
    assert (found.tasks, found.targets) == (tuple(TASKS), ("films",))
    assert found.batches.tolist() == list(BATCHES.values())
    gradients = [loop.gradients(task, batches) for task, batches in loop.batches.items()]
    means = np.stack([in_groups(of, list(range(len(of))), 20) for of in gradients], axis=1)
    np.testing.assert_allclose(found.means, means, rtol=1e-4, atol=1e-6 * np.nanmax(np.abs(means)))
    of_held = in_groups(loop.gradients("films", held["films"]), list(range(9)), 20)[:, None]
    np.testing.assert_allclose(found.held_out, of_held, rtol=1e-4, atol=1e-6 * np.nanmax(np.abs(of_held)))
    spread = np.stack([of.std(axis=0, ddof=1) for of in gradients])
    np.testing.assert_allclose(found.deviation, spread, rtol=1e-3, atol=1e-4 * spread.max())
    np.testing.assert_allclose(found.rate, 3e-4, rtol=1e-6)
    np.testing.assert_allclose(found.eps, 1e-6, rtol=1e-6)


def test_what_they_predict_is_what_a_small_step_does(loop):
    """Of a mixture, with each of its tasks and without, in the metric that it makes itself."""
    parameters = [block.parameter for block in loop.surgeon.blocks]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    held = {task: texts(9, 30 + place) for place, task in enumerate(TASKS)}
    vectors = loop.surgeon.snapshot(loop.batches, loop.loss, targets=held, optimizer=optimizer).vectors
    weights = np.array([1.0, 0.5, 2.0])
    found = transfer([vectors], weights)
    start = [parameter.detach().clone() for parameter in parameters]

    def losses() -> np.ndarray:
        with torch.no_grad():
            return np.array([np.mean([loop.loss(task, batch).item() for batch in held[task]]) for task in TASKS])

    def after(weights: np.ndarray) -> np.ndarray:
        """A step of AdamW with the means, whose second moment is known."""
        mean = weights @ np.nanmean(vectors.means.astype(float), axis=0)
        step = 1e-6 * mean / (np.sqrt(second_moment(vectors, weights)) + 1e-8)
        sizes = [parameter.numel() for parameter in parameters]
        with torch.no_grad():
            for parameter, of, part in zip(parameters, start, torch.from_numpy(step).split(sizes), strict=True):
                parameter.copy_(of - part.reshape(of.shape))
        return losses()

    before, whole = losses(), after(weights)
    np.testing.assert_allclose(found.progress.value, whole - before, rtol=0.01, atol=1e-9)
    for place in range(len(TASKS)):
        without = after(np.where(np.arange(len(TASKS)) == place, 0.0, weights))
        np.testing.assert_allclose(found.nats.value.reshape(3, 3)[:, place], whole - without, rtol=0.02, atol=1e-9)
    assert np.abs(found.crowding.value).min() > 1e-9


def test_of_an_optimizer_the_metric_is_its_own(loop):
    """Of its mixture the sum of what the record's products say, which are in the optimizer's metric."""
    parameters = [block.parameter for block in loop.surgeon.blocks]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)
    for seed in range(2):
        batch = texts(1, 60 + seed)[0]
        optimizer.zero_grad()
        (10 * loop.loss("news", batch) + loop.loss("films", batch)).backward()
        optimizer.step()
    optimizer.zero_grad()
    held = {task: texts(9, 30 + place) for place, task in enumerate(TASKS)}
    snapshot = loop.surgeon.snapshot(loop.batches, loop.loss, targets=held, optimizer=optimizer)
    assert snapshot.of_optimizer
    expected = snapshot.transfer(3e-4)[0].sum(axis=1)
    found = progress([snapshot.vectors], np.ones(3)).value
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_many_coordinates_are_drawn_and_each_stands_for_several(loop, monkeypatch):
    batches = {task: of[:9] for task, of in loop.batches.items()}
    held = {task: texts(9, 30 + place) for place, task in enumerate(TASKS)}
    whole = loop.surgeon.snapshot(batches, loop.loss, targets=held).vectors
    monkeypatch.setattr("ortho_lora.record.vectors.COORDINATES", 128)
    found = []
    for seed in range(25):
        some = loop.surgeon.snapshot(batches, loop.loss, targets=held, seed=seed).vectors
        assert some.means.shape[-1] <= 140
        assert np.isnan(some.rate).all()  # there is no optimizer
        for of in (some, whole):
            of.rate[:] = 1.0 if of is whole else whole.means.shape[-1] / some.means.shape[-1]
        found.append(progress([some], np.ones(3)).value)
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - progress([whole], np.ones(3)).value) < 4 * error).all()


def test_a_warm_up_has_the_rate_that_it_rises_to(loop):
    parameters = [block.parameter for block in loop.surgeon.blocks]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-9, total_iters=10)
    optimizer.param_groups[0]["lr"] = 0.0
    held = {"films": texts(9, 9)}
    found = loop.surgeon.snapshot(loop.batches, loop.loss, targets=held, optimizer=optimizer).vectors
    np.testing.assert_allclose(found.rate, 3e-4, rtol=1e-6)
