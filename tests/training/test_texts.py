"""Single held-out texts at the end of a snapshot: what a step for each task does to their loss."""

import threading

import numpy as np
import pytest
import torch
from small_runs import table

from ortho_lora.record.schema import read_run
from ortho_lora.record.texts import LONGEST, shortened
from ortho_lora.training.config import load_config
from ortho_lora.training.session import Training, tasks_of
from ortho_lora.training.snapshots import grouped_batches
from ortho_lora.training.texts import texts_of
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": [{"name": "trec", "loss_weight": 2.0}, "movies", "movies@1"], "batch_size": 4, "steps": 4, "eval_every": 4,
    "eval_examples": 8, "max_length": 16, "rank": 2, "threads": 1, "dropout": 0.0, "snapshots": 2,
    "snapshot_batches": 12, "snapshot_texts": 5,
}  # fmt: skip


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def run(request, tiny, tmp_path_factory):
    config = load_config(overrides=SMALL | {"model": tiny, "optimizer": request.param})
    return train(config, tmp_path_factory.mktemp("runs"), request.param)


def training_at(run):
    settings = load_config(overrides=read_run(run).config)
    training = Training(settings, tasks_of(settings), lambda status: None, threading.Event())
    training.restore(run)
    return training


def test_is_how_the_loss_moves_along_the_mean_gradient(run):
    """By moving the parameters there and back, along means of autograd's gradients."""
    training = training_at(run)
    found = training.snapshot(12, 5, lambda: None)
    blocks = [block.parameter for block in training.groups[0].surgeon.blocks]
    places = [parameter.detach().clone() for parameter in blocks]
    steps = [
        list(steps_along(training, blocks, *of)) for of in zip(training.tasks, (2.0, 1.0, 1.0), strict=True)
    ]  # before anything moves
    for source, along in enumerate(steps):
        for target in found.texts:
            split = next(of for of in training.tasks if of.name == target.target).evaluation["validation"]
            scale = 0.005 / max(float(step.abs().max()) for step in along)
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    for parameter, place, step in zip(blocks, places, along, strict=True):
                        parameter.copy_(place - sign * scale * step)
                    ends.append([float(training.passes.loss(target.target, (split, [at]))) for at in target.places])
            expected = np.subtract(*ends) / (2 * scale)
            np.testing.assert_allclose(target.nats[:, source], expected, atol=0.005 * np.abs(target.nats).max())


def steps_along(training, blocks, task, weight):
    """What the optimizer takes off for the mean gradient of a task alone, by block."""
    size = training.config.batch_size
    drawn = grouped_batches(task.train, 12, size, seed=5, step=training.place.step)
    gradients = [torch.autograd.grad(training.passes.loss(task.name, (task.train, of)), blocks) for of in drawn.indices]
    (group,) = [of for of in training.optimizer.param_groups if any(blocks[0] is one for one in of["params"])]
    rate = group["lr"] or group["initial_lr"]
    for parameter, *of in zip(blocks, *gradients, strict=True):
        mean = weight * rate * torch.stack(of).mean(0)
        if training.config.optimizer == "adamw":
            state = training.optimizer.state[parameter]
            mean = mean / ((state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])).sqrt() + group["eps"])
        yield mean


def test_are_recorded_the_same_texts_each_time_and_of_twins(run):
    rows = table(run, "texts")
    assert len(rows) == 2 * 3 * 3 * 5  # snapshots, targets, sources, texts
    one, other = (rows[rows["step"] == step].reset_index(drop=True) for step in sorted(set(rows["step"])))
    same = ["source", "target", "example", "text", "label"]
    assert one[same].equals(other[same])
    assert not one["nats"].equals(other["nats"])
    movies, twin = (one[one["target"] == name].reset_index(drop=True) for name in ("movies", "movies-flip1"))
    assert movies["text"].equals(twin["text"])
    assert (movies["label"].astype(str) != twin["label"].astype(str)).all()
    task = tasks_of(load_config(overrides=SMALL))[1]
    assert [task.evaluation["validation"].texts[at] for at in movies["example"]] == movies["text"].tolist()


def test_none_are_told_where_none_are_asked_or_sums_are_sketched(run):
    training = training_at(run)
    with training.taking(0) as taking:
        assert not list(texts_of(taking, training.tasks, 0, adamw=True, seed=0, sign=lambda: None))
        taking.taker.sums.widths = [64, *taking.taker.sums.widths[1:]]  # the first block is sketched
        assert not list(texts_of(taking, training.tasks, 5, adamw=True, seed=0, sign=lambda: None))


def test_of_long_ones_the_beginning_is_kept():
    assert shortened("short") == "short"
    long = shortened("word " * 200)
    assert len(long) <= LONGEST
    assert long.endswith("word…")
