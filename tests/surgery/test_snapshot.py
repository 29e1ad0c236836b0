"""`OrthoLoRA.snapshot` against autograd, batch by batch, in float64; and that it changes nothing."""

import random

import numpy as np
import pytest
import torch
from loops import BATCHES, TASKS, Loop, in_groups, texts
from models import tiny_albert, tiny_bert, tiny_llama
from torch import nn

from ortho_lora import OrthoLoraError
from ortho_lora.record.products import of_means
from ortho_lora.surgery.groups import GROUPS, hashed
from ortho_lora.surgery.measure import Measured
from ortho_lora.surgery.snapshot import Taker, unchanged

MODELS = {
    "plain": tiny_bert,
    "shared": tiny_albert,
    "dora": lambda: tiny_bert(use_dora=True),
    "decoder": tiny_llama,
}


@pytest.mark.parametrize("kind", MODELS)
def test_products_are_those_of_autograd(kind):
    loop = Loop(MODELS[kind]())
    found = loop.surgeon.snapshot(loop.batches, loop.loss)
    assert found.groups.tolist() == [20, 19, 16]
    of_tasks = [loop.gradients(task, batches) for task, batches in loop.batches.items()]
    means = np.stack([in_groups(of, list(range(len(of))), 20) for of in of_tasks], axis=1)
    expected = of_means(means)
    np.testing.assert_allclose(found.products["plain"].sum(1), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    sizes = np.cumsum([block.parameter.numel() for block in loop.surgeon.blocks])[:-1]
    for block, part in enumerate(np.split(means, sizes, axis=2)):
        of_block = of_means(part)
        np.testing.assert_allclose(
            found.products["plain"][:, block], of_block, rtol=1e-4, atol=1e-6 * np.abs(of_block).max()
        )
    assert found.losses[found.tasks.index("films")] == pytest.approx(
        np.mean([loop.loss("films", batch).item() for batch in loop.batches["films"]])
    )


def test_groups_are_those_that_are_told_the_same_for_all_tasks():
    loop = Loop(tiny_bert())
    labels = {task: [f"film {place % 9}" for place in range(count)] for task, count in BATCHES.items()}
    labels["tweets"] = [f"film {8 - place % 9}" for place in range(16)]
    found = loop.surgeon.snapshot(loop.batches, loop.loss, groups=labels)
    means = [
        in_groups(loop.gradients(task, loop.batches[task]), [int(label[-1]) for label in labels[task]], 9)
        for task in TASKS
    ]
    expected = of_means(np.stack(means, axis=1))
    np.testing.assert_allclose(found.products["plain"].sum(1)[0], expected[0], rtol=1e-4)
    assert found.groups.tolist() == [9, 9, 9]


def test_many_different_groups_are_hashed_into_few():
    loop = Loop(tiny_bert())
    batches = {"news": texts(70, 1), "films": texts(70, 2)}
    labels = {"news": list(range(70)), "films": list(range(30, 100))}
    found = loop.surgeon.snapshot(batches, loop.loss, groups=labels, seed=3)
    assert found.groups.tolist() == [len({hashed(label, GROUPS, 3) for label in of}) for of in labels.values()]


def adamw_after(loop: Loop, steps: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([block.parameter for block in loop.surgeon.blocks], lr=1e-3, eps=1e-4)
    for step in range(steps):
        optimizer.zero_grad()
        loop.surgeon.backward({task: loop.loss(task, loop.batches[task][step]) for task in TASKS})
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


def test_the_metric_is_that_of_the_optimizer():
    """What AdamW with no memory of former directions does to a gradient is what the metric multiplies it by."""
    loop = Loop(tiny_bert())
    optimizer = adamw_after(loop, 3)
    found = loop.surgeon.snapshot(loop.batches, loop.loss, optimizer=optimizer, targets={"news": texts(12, 9)})
    assert found.of_optimizer
    weights = []
    for block in loop.surgeon.blocks:
        moment = optimizer.state[block.parameter]["exp_avg_sq"] / (1 - 0.999**3)
        weights.append((1 / (moment.sqrt() + 1e-4)).flatten())
    root = torch.cat(weights).sqrt().numpy()
    of_tasks = [loop.gradients(task, batches) for task, batches in loop.batches.items()]
    means = np.stack([in_groups(of, list(range(len(of))), 20) for of in of_tasks], axis=1) * root
    expected = of_means(means)
    np.testing.assert_allclose(found.products["adamw"].sum(1), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    held_out = in_groups(loop.gradients("news", texts(12, 9)), list(range(12)), 20)[:, None] * root
    effect, low, high = found.transfer(learning_rate=0.5)
    np.testing.assert_allclose(effect, -0.5 * of_means(held_out, means)[0], rtol=1e-4)
    assert (low < effect).all()
    assert (effect < high).all()


def test_without_an_optimizer_the_metric_is_that_of_the_batches_themselves():
    loop = Loop(tiny_bert())
    found = loop.surgeon.snapshot(loop.batches, loop.loss, optimizer=torch.optim.AdamW(loop.model.parameters()))
    assert not found.of_optimizer  # it has not taken a step
    of_tasks = [loop.gradients(task, batches) for task, batches in loop.batches.items()]
    moment = sum(of.var(axis=0) for of in of_tasks) + sum(of.mean(axis=0) for of in of_tasks) ** 2
    root = 1 / np.sqrt(np.sqrt(moment) + 1e-8)
    means = np.stack([in_groups(of, list(range(len(of))), 20) for of in of_tasks], axis=1) * root
    np.testing.assert_allclose(found.products["adamw"].sum(1)[0], of_means(means)[0], rtol=1e-3)


def test_it_changes_nothing():
    """Steps after a snapshot are bit for bit those without one, dropout and gradients that wait included."""
    after = []
    for taken in (False, True):
        loop = Loop(tiny_bert(lora_dropout=0.2))
        model = loop.model.train()
        model.register_buffer("seen", torch.zeros(1))
        optimizer = adamw_after(loop, 2)
        model.base_model.model.embeddings.eval()
        waiting = loop.surgeon.backward({"news": loop.loss("news", loop.batches["news"][0])}, accumulate=True)
        assert waiting is None

        def loss(task: str, batch: torch.Tensor, loop: Loop = loop) -> torch.Tensor:
            loop.model.seen += 1
            random.random(), np.random.rand()
            return loop.loss(task, batch)

        random.seed(1)
        np.random.seed(1)
        if taken:
            loop.surgeon.snapshot(loop.batches, loss, targets={"films": texts(9, 9)}, optimizer=optimizer)
        loop.surgeon.backward({"films": loop.loss("films", loop.batches["films"][0])})
        optimizer.step()
        chance = torch.rand(1).item(), random.random(), np.random.rand()
        state = [parameter.detach().clone() for parameter in model.parameters()]
        grads = [block.parameter.grad.clone() for block in loop.surgeon.blocks]
        modes = [module.training for module in model.modules()]
        after.append((chance, modes, model.seen.item(), [*state, *grads]))
    assert after[0][:3] == after[1][:3]
    assert all(torch.equal(one, other) for one, other in zip(after[0][3], after[1][3], strict=True))


def test_every_batch_meets_the_same_buffers():
    """Running means follow the batches, and the next one, or the held-out texts, must not see it."""
    loop, seen = Loop(tiny_bert()), []
    loop.model.register_buffer("seen", torch.zeros(1))

    def loss(task: str, batch: torch.Tensor) -> torch.Tensor:
        seen.append(loop.model.seen.item())
        loop.model.seen += 1
        return loop.loss(task, batch)

    loop.surgeon.snapshot({"news": texts(8, 1)}, loss, targets={"news": texts(9, 2)})
    assert seen == [0.0] * 17


def test_it_may_be_looked_at_on_the_way_and_batches_may_come_in_any_order():
    loop = Loop(tiny_bert())
    blocks, batches = loop.surgeon.blocks, {task: texts(12, place) for place, task in enumerate(TASKS)}
    with unchanged(loop.model), loop.surgeon.collector.looking_away():
        taker = Taker(blocks, TASKS, ["films"], 32)
        for number in range(12):
            if number == 9:
                found = [taker.look(), taker.look()]
            for task in TASKS:
                assert taker.taken == number
                taker.take(task, number, loop.loss(task, batches[task][number]))
            taker.take("films", number, loop.loss("films", batches["news"][number]), held_out=True)
        found.append(taker.look())
    for of, count in zip(found, (9, 9, 12), strict=True):
        some = {task: of_task[:count] for task, of_task in batches.items()}
        expected = loop.surgeon.snapshot(some, loop.loss, targets={"films": batches["news"][:count]})
        for metric in ("plain", "adamw"):
            np.testing.assert_array_equal(of.products[metric], expected.products[metric])
            np.testing.assert_array_equal(of.held_out[metric], expected.held_out[metric])
        np.testing.assert_array_equal(of.losses, expected.losses)
        assert of.batches.tolist() == of.groups.tolist() == [count] * 3


def test_groups_without_text_are_none():
    """Of an iterator nobody knows how many batches it has."""
    loop = Loop(tiny_bert())
    batches = {task: texts(9, place) for place, task in enumerate(TASKS)}
    found = loop.surgeon.snapshot({task: iter(of) for task, of in batches.items()}, loop.loss)
    expected = loop.surgeon.snapshot(batches, loop.loss)
    np.testing.assert_array_equal(found.products["plain"], expected.products["plain"])
    assert found.products["plain"].shape[0] == 1 + 9


def micro_batch(loop: Loop, way: str, step: int, *, accumulate: bool) -> Measured | None:
    """A batch of each task, in a pass of its own or all in one."""
    if way == "in turn":
        return loop.surgeon.backward(
            {task: loop.loss(task, loop.batches[task][step]) for task in TASKS}, accumulate=accumulate
        )
    tokens = torch.cat([loop.batches[task][step] for task in TASKS])
    with loop.surgeon.mixed_batch([task for task in TASKS for _ in range(3)], weight_of_example=1):
        states = loop.states(tokens).split(3)
        losses = {task: (of @ head).square().mean() for task, of, head in zip(TASKS, states, loop.heads, strict=True)}
        return loop.surgeon.backward(losses, accumulate=accumulate)


@pytest.mark.parametrize("way", ["in turn", "mixed"])
def test_amid_an_accumulation_gradients_wait_and_it_says_what_it_says_elsewhere(way):
    after = []
    for taken in (False, True):
        loop = Loop(tiny_bert())
        elsewhere = loop.surgeon.snapshot(loop.batches, loop.loss)
        assert micro_batch(loop, way, 0, accumulate=True) is None
        if taken:
            amid = loop.surgeon.snapshot(loop.batches, loop.loss)
            for metric, products in elsewhere.products.items():
                np.testing.assert_array_equal(amid.products[metric], products)
        measured = micro_batch(loop, way, 1, accumulate=False)
        after.append([measured.gram, measured.losses, *(block.parameter.grad for block in loop.surgeon.blocks)])
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))


def test_held_out_texts_are_looked_at_in_evaluation_mode():
    loop = Loop(tiny_bert(lora_dropout=0.5))
    loop.model.train()
    seen = []

    def loss(task: str, batch: torch.Tensor) -> torch.Tensor:
        seen.append(loop.model.training)
        return loop.loss(task, batch)

    loop.surgeon.snapshot({"news": texts(8, 1)}, loss, targets={"news": texts(9, 2)})
    assert seen == [True] * 8 + [False] * 9
    assert loop.model.training


def test_what_raises_leaves_all_as_it_was():
    loop = Loop(tiny_bert())
    loop.model.train()
    loop.loss("news", loop.batches["news"][0]).backward()
    before = [block.parameter.grad.clone() for block in loop.surgeon.blocks]

    def loss(task: str, batch: torch.Tensor) -> torch.Tensor:
        if task == "films":
            raise KeyError("films")
        return loop.loss(task, batch)

    with pytest.raises(KeyError):
        loop.surgeon.snapshot(loop.batches, loss, targets={"news": texts(9, 2)})
    assert all(
        torch.equal(block.parameter.grad, gradient) for block, gradient in zip(loop.surgeon.blocks, before, strict=True)
    )
    assert loop.model.training
    assert not loop.surgeon.blocks[0].parameter._post_accumulate_grad_hooks.keys() - loop_hooks(loop)


def loop_hooks(loop: Loop) -> set[int]:
    return {handle.id for handle in loop.surgeon.collector._handles}


def test_too_little_text_is_nan_and_cosines_are_within_their_ends():
    loop = Loop(tiny_bert())
    batches = loop.batches | {"tweets": texts(7, 4)}
    found = loop.surgeon.snapshot(batches, loop.loss)
    for metric in ("plain", "adamw"):
        value, low, high = found.cosines(metric=metric, branch="B")
        assert np.isnan(low[2]).all()
        assert np.isnan(low[:, 2]).all()
        assert (low[:2, :2] <= high[:2, :2]).all()
        clear = ~np.isnan(value)
        assert ((low <= value + 1e-9) & (value <= high + 1e-9))[clear].all()
        assert value[0, 0] == pytest.approx(1)


def test_what_no_gradient_reaches_has_no_cosine():
    loop = Loop(tiny_bert())
    for block in loop.surgeon.blocks:
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    found = loop.surgeon.snapshot(loop.batches, loop.loss)
    assert all(np.isnan(of).all() for of in found.cosines(branch="A"))
    assert not np.isnan(found.cosines(branch="B")[1]).any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batches": {}}, "batches: none given, expected iterables of batches by task"),
        ({"batches": {"cats": []}}, "batches: task 'cats': expected one of news, films, tweets"),
        ({"batches": []}, "batches: list given, expected iterables of batches by task"),
        ({"batches": {"news": []}}, "batches of task 'news': none came"),
        ({"targets": {"cats": []}}, "targets: task 'cats'"),
        ({"groups": [1, 2]}, "groups: list given, expected by task"),
        ({"groups": {"news": [1] * 20}}, "groups: none of task 'films' given"),
        ({"groups": {"news": [1], "films": [1], "tweets": [1]}}, "groups: 1 given for task 'news', which has more"),
        ({"limit_bytes": 1000}, "snapshot: limit_bytes=1000 given, and 384 parameters"),
    ],
)
def test_bad_input_is_told_in_a_sentence(arguments, sentence):
    loop = Loop(tiny_bert())
    with pytest.raises(OrthoLoraError, match=sentence):
        loop.surgeon.snapshot(**{"batches": loop.batches, "loss_of": loop.loss} | arguments)


def test_a_loss_that_is_not_finite_is_named():
    loop = Loop(tiny_bert())

    def loss(task: str, batch: torch.Tensor) -> torch.Tensor:
        return loop.loss(task, batch) * (float("nan") if batch is loop.batches["films"][3] else 1)

    with pytest.raises(OrthoLoraError, match="the loss of task 'films' is nan in batch 3"):
        loop.surgeon.snapshot(loop.batches, loss)
    targets = {"films": loop.batches["films"]}
    with pytest.raises(OrthoLoraError, match="the loss of task 'films' is nan in held-out batch 3"):
        loop.surgeon.snapshot({"news": loop.batches["news"]}, loss, targets=targets)


def test_what_is_asked_of_a_snapshot_is_there():
    found = Loop(tiny_bert())
    taken = found.surgeon.snapshot(found.batches, found.loss)
    with pytest.raises(OrthoLoraError, match="metric: 'adam' given, expected one of plain, adamw"):
        taken.cosines(metric="adam")
    with pytest.raises(
        OrthoLoraError, match="no block has branch 'C': expected one of layers 0, 1, modules query, value"
    ):
        taken.cosines(branch="C")
    with pytest.raises(OrthoLoraError, match="transfer: no targets were given to `snapshot`"):
        taken.transfer(learning_rate=1)


def test_whoever_only_takes_snapshots_is_not_told_that_nothing_is_projected():
    loop = Loop(tiny_bert())
    loop.surgeon.snapshot(loop.batches, loop.loss)
    for batch in loop.batches["news"][:5]:  # warnings are errors
        loop.loss("news", batch).backward()


def test_inside_a_mixed_batch_it_is_refused():
    loop = Loop(tiny_bert())
    with pytest.raises(OrthoLoraError, match="snapshot: called inside `mixed_batch`"), loop.surgeon.mixed_batch([0, 1]):
        loop.surgeon.snapshot(loop.batches, loop.loss)
