"""The parts of the gradients against autograd, on models of every kind."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    ON_PARAMETERS,
    Problem,
    checkpoint,
    convolution,
    states_of,
    tiny_albert,
    tiny_bert,
    tiny_llama,
    tiny_t5,
    translated,
)
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.gradients import Collector
from ortho_lora.surgery.halves import rows_of, rows_of_one

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def collect_mixed(problem, order=None):
    collector = Collector(problem.blocks, len(problem.sizes))
    with collector.mix(rows_of(problem.task_of_example, len(problem.sizes), weights=1)):
        collector.backward_mixed(sum(problem.mixed_losses().values()))
    return collector


def collect_alone(problem):
    collector = Collector(problem.blocks, len(problem.sizes))
    for task, size in enumerate(problem.sizes):
        collector.backward_alone(problem.loss(task), rows_of_one(task, len(problem.sizes), weights=[1] * size))
    return collector


def collect_halves(problem):
    collector = Collector(problem.blocks, len(problem.sizes))
    for task, size in enumerate(problem.sizes):
        first = max(size // 2, 1)
        for half, rows in enumerate((slice(0, first), slice(first, size))):
            count = rows.stop - rows.start
            if count:
                loss = count / size * problem.loss(task, rows)
                collector.backward_alone(loss, rows_of_one(task, len(problem.sizes), half=half, weights=count))
    return collector


WAYS = [collect_mixed, collect_alone, collect_halves]


def close(problem, found, expected):
    # Models of the Llama and T5 families normalise in float32, whatever their weights are in.
    single = any(
        "RMSNorm" in type(part).__name__ or type(part).__name__ == "T5LayerNorm" for part in problem.model.modules()
    )
    torch.testing.assert_close(
        found, expected, **({"rtol": 1e-3, "atol": 1e-6} if single else {"rtol": 1e-9, "atol": 1e-10})
    )


def check_parts(problem, collector):
    """The two parts of a task add up to its gradient, and each is its half's share of it."""
    for task, size in enumerate(problem.sizes):
        first = max(size // 2, 1)
        whole = problem.autograd(task)
        half = problem.autograd(task, slice(0, first))
        for index in range(len(whole)):
            parts = collector._collected[index].parts
            close(problem, parts[2 * task] + parts[2 * task + 1], whole[index])
            close(problem, parts[2 * task], first / size * half[index])
            assert collector._collected[index].tasks == set(range(len(problem.sizes)))
            assert collector._collected[index].weights[2 * task : 2 * task + 2] == [first, size - first]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15)
@given(sizes=SIZES, seed=st.integers(0, 100))
def test_parts_equal_autograd(way, sizes, seed):
    problem = Problem(tiny_bert(seed), sizes, seed=seed)
    check_parts(problem, way(problem))


MODELS = {
    "decoder": (tiny_llama, states_of),
    "encoder-decoder": (tiny_t5, translated),
    "one layer used several times": (tiny_albert, states_of),
    "rank-stabilised": (lambda: tiny_bert(use_rslora=True), states_of),
    "with a bias on B": (lambda: tiny_bert(lora_bias=True), states_of),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_parts_equal_autograd_on_plain_layers_of_any_model(way, name):
    make, states = MODELS[name]
    problem = Problem(make(), [4, 3, 4], states)
    assert all(block.plain for block in problem.blocks)
    check_parts(problem, way(problem))


SPECIAL = {
    "dora": lambda: tiny_bert(use_dora=True),
    "embedding": lambda: tiny_llama(targets=["embed_tokens", "q_proj"]),
    "convolution": convolution,
} | ({"parameter": lambda: tiny_llama(target_parameters=["mlp.up_proj.weight"])} if ON_PARAMETERS else {})


@pytest.mark.parametrize("name", SPECIAL)
def test_halves_equal_autograd_on_layers_of_any_kind(name):
    problem = Problem(SPECIAL[name](), [4, 3])
    assert not all(block.plain for block in problem.blocks)
    check_parts(problem, collect_halves(problem))


@pytest.mark.parametrize("name", SPECIAL)
def test_whole_gradients_equal_autograd_on_layers_of_any_kind(name):
    problem = Problem(SPECIAL[name](), [4, 3])
    collector = collect_alone(problem)
    for task in range(2):
        for index, expected in enumerate(problem.autograd(task)):
            collected = collector._collected[index]
            parts = collected.parts
            close(problem, parts[2 * task] + parts[2 * task + 1], expected)
            assert any(map(math.isnan, collected.weights)) == (not problem.blocks[index].plain)


def test_examples_of_a_mixed_batch_may_come_in_any_order():
    problem = Problem(tiny_bert(), [4, 2, 3])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = [problem.task_of_example[index] for index in order]
    collector = Collector(problem.blocks, 3)
    with collector.mix(rows_of(shuffled, 3)):
        states = problem.states(problem.model, torch.cat(problem.tokens)[order])[order.argsort()].split(problem.sizes)
        collector.backward_mixed(sum(problem.error(task, of) for task, of in enumerate(states)))
    for task in range(3):
        for index, expected in enumerate(problem.autograd(task)):
            parts = collector._collected[index].parts
            close(problem, parts[2 * task] + parts[2 * task + 1], expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_mixed_halves_each_task(task_of_example):
    batch = rows_of(task_of_example, 4, weights=1)
    assert [part // 2 for part in batch.parts] == task_of_example
    for task in range(4):
        total = task_of_example.count(task)
        first = min(max(total // 2, 1), total)
        assert batch.weight_of_part[2 * task : 2 * task + 2] == [first, total - first]
    assert batch.present == set(task_of_example)


def test_batches_with_parts_of_one_size_in_order_are_regular():
    assert rows_of([0, 0, 1, 1], 2).regular
    assert not rows_of([0, 1, 0, 1], 2).regular
    assert not rows_of([0, 0, 0, 1, 1, 1], 2).regular
    assert not rows_of([0, 0, 1, 1], 3).regular


@pytest.mark.parametrize("way", WAYS)
def test_grad_is_bit_for_bit_that_of_plain_training(way):
    problem = Problem(tiny_bert(lora_dropout=0.1), [4, 3, 4])
    problem.model.train()
    torch.manual_seed(3)
    if way is collect_mixed:
        sum(problem.mixed_losses().values()).backward()
    elif way is collect_alone:
        for loss in problem.losses().values():
            loss.backward()
    else:
        for task, size in enumerate(problem.sizes):
            for rows in (slice(0, size // 2), slice(size // 2, size)):
                ((rows.stop - rows.start) / size * problem.loss(task, rows)).backward()
    plain, state = problem.grads(), torch.get_rng_state()
    problem.zero()
    torch.manual_seed(3)
    way(problem)
    assert all(a.equal(b) for a, b in zip(problem.grads(), plain, strict=True))
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_gradient_checkpointing(way, reentrant):
    problem = Problem(tiny_bert(), [4, 4])
    problem.checkpoint(reentrant)
    collector = way(problem)
    problem.model.eval()  # without checkpoints
    check_parts(problem, collector)


def test_non_reentrant_checkpoints_keep_no_activations_alive():
    """What is needed of the inputs is computed again, as all else is."""
    kept = {}
    for checkpointing in (False, True):
        problem = Problem(tiny_bert(layers=4), [4, 4])
        problem.model.train()
        if checkpointing:
            checkpoint(problem.model.get_base_model(), reentrant=False)
        collector = Collector(problem.blocks, 2)
        count = 0

        def pack(tensor):
            nonlocal count
            count += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), collector.mix(rows_of([0] * 4 + [1] * 4, 2)):
            sum(problem.mixed_losses().values())
        kept[checkpointing] = count
    assert kept[True] < kept[False] / 3


def test_gradient_of_a_is_exactly_zero_while_b_is_zero():
    problem = Problem(tiny_bert(), [4, 4])
    for block in problem.blocks:
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    collector = collect_mixed(problem)
    for block, collected in zip(problem.blocks, collector._collected, strict=True):
        assert (collected.parts.abs().max() == 0).item() == (block.branch == "A")


def test_a_matrix_that_two_layers_share_is_one_block():
    model = tiny_llama(targets=["q_proj"])
    first, second = (layer.self_attn.q_proj for layer in model.get_base_model().layers)
    second.lora_A["default"].weight = first.lora_A["default"].weight
    problem = Problem(model, [4, 4])
    assert [(block.layer, block.branch, len(block.linears)) for block in problem.blocks] == [
        (0, "A", 2), (0, "B", 1), (1, "B", 1),
    ]  # fmt: skip
    for way in WAYS:
        check_parts(problem, way(problem))


def test_layers_that_mix_examples_are_refused():
    linear = nn.Linear(4, 2, bias=False)
    collector = Collector([Block(0, "x", "A", "layers.0.x", linear.weight, (linear,))], 2)
    with (
        collector.mix(rows_of([0, 0, 1, 1], 2)),
        pytest.raises(
            OrthoLoraError, match=r"layers.0.x, branch A: it received 10 rows for 4 examples.*surgeon\.backward\("
        ),
    ):
        collector.backward_mixed(linear(torch.randn(10, 4)).sum())


def test_a_gradient_that_comes_past_the_layer_is_refused():
    linear = nn.Linear(4, 2, bias=False)
    collector = Collector([Block(0, "x", "A", "layers.0.x", linear.weight, (linear,))], 2)
    with collector.mix(rows_of([0, 1], 2)), pytest.raises(OrthoLoraError, match="came past the layer that is watched"):
        collector.backward_mixed((torch.randn(2, 4) @ linear.weight.T).sum())


def test_gradients_of_others_are_left_alone():
    problem = Problem(tiny_bert(), [4])
    collector = Collector(problem.blocks, 1)
    problem.loss(0).backward()
    assert all(collected.parts is None for collected in collector._collected)
    collector.remove()
    collector.backward_alone(problem.loss(0), rows_of_one(0, 1, weights=[1] * 4))
    for collected, expected in zip(collector._collected, problem.autograd(0), strict=True):
        assert math.isnan(collected.weights[0])  # read from `.grad`, not watched
        close(problem, collected.parts.sum(0), expected)
