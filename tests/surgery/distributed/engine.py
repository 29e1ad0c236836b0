"""Run on two ranks: N ranks that share a batch train as one rank with all of it.

Each case ends in assertions on every rank; the reference is an `OrthoLoRA` that knows nothing of other ranks, and has
the whole batch.
"""

import sys
from contextlib import nullcontext
from datetime import timedelta
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from models import LENGTH, VOCABULARY, WIDTH, tiny_bert
from torch import nn
from torch.distributed import destroy_process_group, get_rank, get_world_size, init_process_group
from torch.nn.parallel import DistributedDataParallel

from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.surgery import distributed

TASKS = ["a", "b", "c"]
EACH = 4  # examples of a task on one rank in one batch


class Headed(nn.Module):
    """An adapted encoder with a head outside LoRA that the tasks share."""

    def __init__(self, seed, **lora):
        super().__init__()
        self.encoder = tiny_bert(seed, **lora)
        torch.manual_seed(seed)
        self.head = nn.Linear(WIDTH, len(TASKS)).double()

    def forward(self, tokens):
        return self.head(self.encoder(input_ids=tokens).last_hidden_state.mean(1))


def batch_of(step, task, rank):
    """Tokens and targets of a task in a micro-batch of one rank."""
    generator = torch.Generator().manual_seed(1000 * step + 10 * TASKS.index(task) + rank)
    tokens = torch.randint(1, VOCABULARY, (EACH, LENGTH), generator=generator)
    return tokens, torch.randn(EACH, generator=generator, dtype=torch.float64)


def whole(step, task, ranks):
    batches = [batch_of(step, task, rank) for rank in ranks]
    return torch.cat([tokens for tokens, _ in batches]), torch.cat([targets for _, targets in batches])


def error(outputs, targets, task):
    return ((outputs[:, TASKS.index(task)] - targets) ** 2).mean()


def sequential(model, surgeon, batches, scale, **given):
    losses = {task: scale[task] * error(model(x), y, task) for task, (x, y) in batches.items()}
    surgeon.backward(losses, weights={task: [1] * len(x) for task, (x, _) in batches.items()}, **given)


def in_turn(model, surgeon, batches, scale, *, accumulate=False):
    for task, (tokens, targets) in batches.items():
        loss = scale[task] * error(model(tokens), targets, task)
        surgeon.backward_part(task, loss, weight=[1] * len(tokens))
    if not accumulate:
        surgeon.project()


def mixed(model, surgeon, batches, scale, **given):
    task_of_example = [task for task, (tokens, _) in batches.items() for _ in tokens]
    with surgeon.mixed_batch(task_of_example, weight_of_example=1):
        outputs = model(torch.cat([tokens for tokens, _ in batches.values()])).split(
            [len(x) for x, _ in batches.values()]
        )
        losses = {
            task: scale[task] * error(of, targets, task)
            for of, (task, (_, targets)) in zip(outputs, batches.items(), strict=True)
        }
        surgeon.backward(losses, **given)


def train(way, model, surgeon, batches, *, accumulation=1, steps=2, sync=nullcontext, scale=None):
    """Weights and measurements after some steps; `batches(step)` are those of a micro-batch."""
    scale = dict.fromkeys(TASKS, 1.0) if scale is None else scale
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = []
    real = surgeon.project
    surgeon.project = lambda: measured.append(real()) or measured[-1]
    for step in range(steps):
        for part in range(accumulation):
            share = {task: value / accumulation for task, value in scale.items()}
            with sync():
                way(model, surgeon, batches(accumulation * step + part), share, accumulate=part < accumulation - 1)
        optimizer.step()
        optimizer.zero_grad()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}, measured


def close(found, expected, case):
    torch.testing.assert_close(
        found, expected, rtol=1e-5, atol=1e-8, equal_nan=True, msg=lambda text: f"{case}: {text}"
    )


def compare(found, expected, case):
    (weights, measured), (reference, known) = found, expected
    close(weights, reference, case)
    for ours, of_whole in zip(measured, known, strict=True):
        for name in ("losses", "gram", "coefficients"):
            close(getattr(ours, name), getattr(of_whole, name), f"{case} {name}")
        for name in ("present", "projected"):
            assert getattr(ours, name).equal(getattr(of_whole, name)), f"{case} {name}"
        assert ours.order == of_whole.order, case
        # The halves are cut elsewhere in the whole batch, so their products differ; they are known for the same tasks.
        assert ours.half_products.isfinite().equal(of_whole.half_products.isfinite()), case


def wrapped(synchronised, **lora):
    """The ways to have gradients of several ranks, on new models.

    What DistributedDataParallel sends, it sends once a pass: it waits forever where a rank makes fewer passes.
    """
    yield "plain", start(**lora), nullcontext
    for view in (False, True):
        if synchronised:
            yield f"DDP view={view}", DistributedDataParallel(start(**lora), gradient_as_bucket_view=view), nullcontext
        model = DistributedDataParallel(start(**lora), gradient_as_bucket_view=view)
        yield f"DDP view={view} no_sync", model, model.no_sync


def start(seed=0, **lora):
    return Headed(seed, **lora)


def alone(way, method, batches, *, lora, **given):
    """As if there were no other ranks."""
    model = start(**lora)
    with patch.object(distributed, "world_size", lambda: 1):
        surgeon = OrthoLoRA(model, TASKS, **method)
        found = train(way, model, surgeon, batches, **given)
        surgeon.remove()
    return found


def check(way, method, *, accumulation=1, missing=None, lora=None):
    """`missing`: a task that the last rank does not have."""
    rank, ranks, lora = get_rank(), range(get_world_size()), lora or {}

    def tasks_of(one):
        return [task for task in TASKS if not (task == missing and one == ranks[-1])]

    def everybody(step):
        return {task: whole(step, task, [one for one in ranks if task in tasks_of(one)]) for task in TASKS}

    def mine(step):
        return {task: batch_of(step, task, rank) for task in tasks_of(rank)}

    # A rank without the task has a loss of zero for it, as under DistributedDataParallel.
    scale = {task: sum(task in tasks_of(one) for one in ranks) / len(ranks) for task in TASKS}
    given = {"accumulation": accumulation}
    expected = alone(way, method, everybody, lora=lora, scale=scale, **given)
    if missing:  # the loss that is recorded is the mean over the ranks that have one
        for of in expected[1]:
            of.losses[TASKS.index(missing)] /= scale[missing]
    seen = []
    synchronised = missing is None or way is mixed
    for name, model, sync in wrapped(synchronised, **lora):
        surgeon = OrthoLoRA(model, TASKS, **method)
        found = train(
            way,
            model,
            surgeon,
            lambda step: {task: batch_of(step, task, rank) for task in tasks_of(rank)},
            sync=sync,
            **given,
        )
        surgeon.remove()
        compare(found, expected, f"{way.__name__} {method} {name} {given} missing={missing} {lora}")
        seen.append(name)
    assert len(seen) == (5 if synchronised else 3)


def check_nonfinite(run_dir):
    """A loss that one rank alone finds to be NaN is NaN on average; a task that a rank lacks is still no NaN."""
    model, rank = start(), get_rank()
    with Recorder(run_dir) as recorder:
        surgeon = OrthoLoRA(model, TASKS, recorder=recorder, on_nonfinite="skip")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            batches = {task: batch_of(step, task, rank) for task in TASKS if not (task == "c" and rank == 1)}
            losses = {task: error(model(x), y, task) for task, (x, y) in batches.items()}
            if step == 1 and rank == 1:
                losses["b"] = losses["b"] * torch.nan
            before = [parameter.detach().clone() for parameter in model.parameters()]
            measured = surgeon.backward(losses)
            assert measured.known.tolist() == [True, True, True]
            assert measured.losses.isnan().tolist() == [False, step == 1, False]
            assert measured.skipped == (step == 1)
            optimizer.step()
            optimizer.zero_grad()
            same = all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))
            assert same == (step == 1)
    surgeon.remove()


def check_snapshot(*, told):
    """Of all ranks' batches together, each text in the same group everywhere, however many batches a rank has."""
    rank, ranks = get_rank(), range(get_world_size())
    steps = {one: range(10 + one) for one in ranks}
    labels = {one: {task: [f"film {(3 * one + step) % 40}" for step in steps[one]] for task in TASKS} for one in ranks}

    def batches(*some):
        return {task: [batch_of(step, task, one) for one in some for step in steps[one]] for task in TASKS}

    def groups(*some):  # without names: in turn, which begins anew on each rank
        places = {task: [str(step) for one in some for step in steps[one]] for task in TASKS}
        return {task: [of for one in some for of in labels[one][task]] for task in TASKS} if told else places

    def taken(model, some, given):
        surgeon = OrthoLoRA(model, TASKS)
        loss = lambda task, batch: error(model(batch[0]), batch[1], task)  # noqa: E731
        return surgeon.snapshot(batches(*some), loss, groups=given, seed=3)

    with (
        patch.object(distributed, "world_size", lambda: 1),
        patch("ortho_lora.surgery.sums.world_size", lambda: 1),
        patch("ortho_lora.surgery.groups._MOST_GROUPS", 0 if told else 64),
    ):
        expected = taken(start(), ranks, groups(*ranks))
    for name, model, _ in wrapped(synchronised=True):
        found = taken(model, [rank], groups(rank) if told else None)
        assert found.batches.tolist() == expected.batches.tolist() == [21] * 3
        assert found.groups.tolist() == expected.groups.tolist()
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
        for metric in ("plain", "adamw"):
            scale = np.abs(expected.products[metric]).max()
            np.testing.assert_allclose(
                found.products[metric], expected.products[metric], rtol=1e-4, atol=1e-5 * scale, err_msg=name
            )


def check_equal_start():
    """Ranks that were initialised apart start together."""
    model = start(seed=get_rank())
    OrthoLoRA(model, TASKS)
    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    mine = torch.cat([parameter.flatten() for parameter in trained])
    first = mine.clone()
    torch.distributed.broadcast(first, src=0)
    assert mine.equal(first)


def check_record(run_dir):
    """One rank writes; the other may be slower or faster."""
    with Recorder(run_dir) as recorder:
        model = start()
        surgeon = OrthoLoRA(model, TASKS, recorder=recorder)
        assert (surgeon.recorder is None) == (get_rank() > 0)
        train(mixed, model, surgeon, lambda step: {task: batch_of(step, task, get_rank()) for task in TASKS}, steps=3)


def main():
    torch.set_num_threads(1)
    init_process_group("gloo", timeout=timedelta(seconds=600))
    default = {"method": "ortho-lora"}
    methods = [default, {"rule": "gradvac"}, {"method": "pcgrad"}]
    for way, method in product((sequential, in_turn, mixed), methods):
        check(way, method)
    for way in (sequential, in_turn, mixed):
        check(way, default, accumulation=2)
        check(way, {"method": "joint"}, missing="b")
        check(way, default, missing="b", accumulation=2)
    check(in_turn, default, lora={"use_dora": True})
    check_snapshot(told=True)
    check_snapshot(told=False)
    check_equal_start()
    check_nonfinite(Path(sys.argv[1]).with_name("nonfinite"))
    check_record(Path(sys.argv[1]))
    torch.distributed.barrier()  # who leaves first takes the connections along
    destroy_process_group()


if __name__ == "__main__":
    main()
