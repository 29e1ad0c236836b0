"""`OrthoLoRA` against autograd and the methods in full vector space: what it leaves in `.grad`."""

import pytest
import torch
from models import (
    ON_PARAMETERS,
    Problem,
    convolution,
    states_of,
    tiny_albert,
    tiny_bert,
    tiny_llama,
    tiny_t5,
    translated,
)
from oracles import ortho_lora_as_printed, pcgrad
from torch import nn
from ways_of_steps import SIZES, WAYS, assert_close, backward, expected_update

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("branches", ["both", "A", "B"])
@pytest.mark.parametrize("scope", ["block", "module", "model"])
@pytest.mark.parametrize(("rule", "oracle"), [("pcgrad", pcgrad), ("pcgrad-inplace", ortho_lora_as_printed)])
def test_update_is_that_of_the_method_in_full_vector_space(rule, oracle, scope, branches, way):
    problem = Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, rule=rule, scope=scope, branches=branches)
    measured = backward(problem, surgeon, way)
    assert_close(problem.grads(), expected_update(problem, oracle, scope, branches, measured.order))
    assert measured.projected.any()


@pytest.mark.parametrize("way", WAYS)
def test_measured_gram_matrices_are_those_of_autograd(way):
    problem = Problem(tiny_bert(), SIZES)
    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks), way)
    for matrix, gradients in zip(measured.gram, problem.gradients(), strict=True):
        torch.testing.assert_close(matrix, gradients @ gradients.T, rtol=1e-7, atol=1e-10)
    for task, size in enumerate(problem.sizes):
        first, second = problem.autograd(task, slice(0, size // 2)), problem.autograd(task, slice(size // 2, size))
        expected = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)])
        torch.testing.assert_close(measured.half_products[:, task], expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(
        measured.losses.tolist(), [loss.item() for loss in problem.losses().values()], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("every", [1, 2])
def test_joint_only_records(tmp_path, way, every):
    """Weights and random state after some steps are bit for bit those of plain training."""
    plain, watched = (Problem(tiny_bert(lora_dropout=0.1), SIZES) for _ in range(2))
    states = []
    for problem in (plain, watched):
        problem.model.train()
        head = nn.Linear(1, 1).double()
        nn.init.ones_(head.weight)
        nn.init.zeros_(head.bias)
        problem.error = lambda *a, error=problem.error, head=head: head(error(*a).view(1, 1)).squeeze()
        optimizer = torch.optim.AdamW([*problem.model.parameters(), *head.parameters()], lr=1e-3)
        torch.manual_seed(5)
        if problem is watched:
            recorder = Recorder(tmp_path / "watched", flush_seconds=0)
            surgeon = OrthoLoRA(problem.model, problem.tasks, "joint", recorder=recorder, record_every=every)
        for _ in range(3):
            optimizer.zero_grad()
            if problem is watched:
                backward(problem, surgeon, way)
            elif way == "mixed":
                torch.stack(list(problem.mixed_losses().values())).sum().backward()
            else:
                for loss in problem.losses().values():
                    loss.backward()
            optimizer.step()
        states.append([*problem.model.state_dict().values(), *head.state_dict().values(), torch.get_rng_state()])
    assert all(a.equal(b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["ortho-lora", "pcgrad"])
def test_micro_batches_are_projected_once_as_one_batch(method, way):
    whole = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(whole.model, whole.tasks, method, order="fixed")
    expected = backward(whole, surgeon, way)
    update = whole.grads()
    whole.zero()
    for rows in (slice(0, 2), slice(2, 4)):
        micro = Problem(whole.model, [2, 2])
        micro.tokens = [tokens[rows] for tokens in whole.tokens]
        micro.targets = [targets[rows] for targets in whole.targets]
        micro.directions = whole.directions
        micro.error = lambda *arguments, error=micro.error: error(*arguments) / 2
        last = rows.stop == 4
        measured = backward(micro, surgeon, way, accumulate=not last)
        assert (measured is None) == (not last)
    assert_close(whole.grads(), update)
    torch.testing.assert_close(measured.gram, expected.gram)
    torch.testing.assert_close(measured.losses, expected.losses)


KINDS = {
    "decoder": (tiny_llama, states_of),
    "encoder-decoder": (tiny_t5, translated),
    "one layer used several times": (tiny_albert, states_of),
    "rank-stabilised": (lambda: tiny_bert(use_rslora=True), states_of),
    "dora": (lambda: tiny_bert(use_dora=True), states_of),
    "embedding": (lambda: tiny_llama(targets=["embed_tokens", "q_proj"]), states_of),
    "convolution": (convolution, states_of),
}
if ON_PARAMETERS:
    KINDS["parameter"] = (lambda: tiny_llama(target_parameters=["mlp.up_proj.weight"]), states_of)


@pytest.mark.parametrize("kind", KINDS)
def test_any_peft_lora_model(kind):
    make, states = KINDS[kind]
    problem = Problem(make(), SIZES, states)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    measured = backward(problem, surgeon, "alone")
    # Llama and T5 normalise in float32.
    assert_close(problem.grads(), expected_update(problem, pcgrad, "block", "both", measured.order), 1e-3, 1e-5)
    special = {block.module for block in problem.blocks if not block.plain}
    if special:
        with (
            pytest.raises(OrthoLoraError, match="mixed_batch needs plain LoRA on linear layers, and .* are not: give"),
            surgeon.mixed_batch(problem.task_of_example),
        ):
            pass


def test_parameters_outside_the_adapter_take_the_plain_sum():
    problem = Problem(tiny_bert(modules_to_save=["LayerNorm"]), SIZES)
    others = [p for name, p in problem.model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert others
    backward(problem, OrthoLoRA(problem.model, problem.tasks), "mixed")
    found = [parameter.grad.clone() for parameter in others]
    problem.zero()
    sum(problem.mixed_losses().values()).backward()
    assert_close(found, [parameter.grad for parameter in others])


def test_only_the_active_adapter_is_touched():
    model = tiny_bert()
    model.add_adapter("second", model.peft_config["default"])
    model.double()
    model.set_adapter("second")
    problem = Problem(model, [4, 4])
    surgeon = OrthoLoRA(model, problem.tasks)
    assert all("second" in name for name, p in model.named_parameters() if p.requires_grad)
    backward(problem, surgeon, "mixed")
    assert all((p.grad is not None) == p.requires_grad for name, p in model.named_parameters() if "lora_" in name)
    with pytest.raises(OrthoLoraError, match=r"adapter 'default': nothing of it can be trained: .*set_adapter"):
        OrthoLoRA(model, problem.tasks, adapter="default")
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found 2"):
        OrthoLoRA(model, problem.tasks)


def test_loss_weights_scale_gradients():
    problem = Problem(tiny_bert(), SIZES)
    plain = backward(problem, OrthoLoRA(problem.model, problem.tasks), "mixed")
    weighted = OrthoLoRA(problem.model, problem.tasks, loss_weights={"b": 3.0})
    for way in WAYS:
        ratio = backward(problem, weighted, way).gram.diagonal(dim1=1, dim2=2) / plain.gram.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(ratio, torch.tensor([1.0, 9.0, 1.0]).double().expand_as(ratio))


@pytest.mark.parametrize("rule", ["mgda", "upgrad", "imtl-g", "aligned-mtl", "cagrad", "fairgrad"])
def test_weightings_weigh_the_update(rule):
    problem = Problem(tiny_bert(), SIZES)
    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks, rule=rule, scope="model"), "mixed")
    weights = measured.coefficients[0].diagonal()
    assert measured.coefficients.equal(torch.diag(weights).expand_as(measured.coefficients))
    expected = [
        (weights @ gradients).view_as(block.parameter)
        for gradients, block in zip(problem.gradients(), problem.blocks, strict=True)
    ]
    assert_close(problem.grads(), expected)


def test_the_mean_over_all_orders():
    problem = Problem(tiny_bert(), SIZES)
    from itertools import permutations

    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks, order="mean"), "mixed")
    each = [expected_update(problem, pcgrad, "block", "both", order) for order in permutations(range(3))]
    assert_close(problem.grads(), [torch.stack(of_block).mean(0) for of_block in zip(*each, strict=True)])
    assert measured.order is None


def test_orders_are_drawn_from_the_seed():
    problem = Problem(tiny_bert(), SIZES)
    orders = {}
    for seed in (0, 0, 1):
        surgeon = OrthoLoRA(problem.model, problem.tasks, seed=seed)
        torch.manual_seed(len(orders))
        drawn = [backward(problem, surgeon, "alone").order for _ in range(8)]
        assert orders.setdefault(seed, drawn) == drawn
    assert orders[0] != orders[1]
    assert len(set(orders[0])) > 2
    fixed = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    assert {backward(problem, fixed, "alone").order for _ in range(3)} == {(0, 1, 2)}


ERRORS = {
    "method 'ortholora': expected one of joint, ortho-lora": {"method": "ortholora"},
    "method 'single' is an adapter for each task": {"method": "single"},
    "tasks: expected different names, found a, a": {"tasks": ["a", "a"]},
    "tasks: expected different names, found none": {"tasks": []},
    "task 'x': expected one of a, b, c": {"loss_weights": {"x": 1.0}},
    "adapter 'x': the model has default: add it with peft.get_peft_model": {"adapter": "x"},
    "tasks: 'abc' given, expected a list of names": {"tasks": "abc"},
    "tasks: 3 given, expected a list of names": {"tasks": 3},
    "tasks: 0 given, expected a name of letters": {"tasks": [0, 1]},
    "tasks: '' given, expected a name": {"tasks": ["a", ""]},
    "loss_weights: -1.0 given for task 'a', expected a finite number above 0": {"loss_weights": {"a": -1.0}},
    "loss_weights: nan given for task 'a'": {"loss_weights": {"a": float("nan")}},
    "loss_weights: inf given for task 'b'": {"loss_weights": {"b": float("inf")}},
    "loss_weights: '2' given for task 'a'": {"loss_weights": {"a": "2"}},
    r"loss_weights: \[1, 2\] given, expected weights by task": {"loss_weights": [1, 2]},
    "record_every: 0 given, expected a whole number of at least 1": {"record_every": 0},
    "record_every: 1.5 given": {"record_every": 1.5},
    "seed: -1 given": {"seed": -1},
    "order: 'shuffled' given, expected one of random, fixed, mean": {"order": "shuffled"},
    "scope: 'layer' given, expected one of block, module, model": {"scope": "layer"},
    "branches: 'a' given, expected one of both, A, B": {"branches": "a"},
    "rule: 'pc-grad' given, expected one of sum": {"rule": "pc-grad"},
}


@pytest.mark.parametrize("sentence", ERRORS)
def test_errors_say_what_was_expected(sentence):
    arguments = {"tasks": ["a", "b", "c"]} | ERRORS[sentence]
    with pytest.raises(OrthoLoraError, match=sentence):
        OrthoLoRA(tiny_bert(), **arguments)


def test_misuse_is_told_in_words():
    problem = Problem(tiny_bert(), [2, 2])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found none"):
        OrthoLoRA(problem.model.get_base_model().embeddings, problem.tasks)
    with pytest.raises(OrthoLoraError, match=r"one loss given outside `mixed_batch`: expected the losses by task"):
        surgeon.backward(problem.loss(0))
    with pytest.raises(OrthoLoraError, match="the tasks' losses share one graph"):
        surgeon.backward(problem.mixed_losses())
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with pytest.raises(OrthoLoraError, match="task 'x': expected one of a, b"):
        surgeon.backward({"x": problem.loss(0)})
    with pytest.raises(OrthoLoraError, match="task 2: expected one of a, b"), surgeon.mixed_batch([0, 2]):
        pass
    losses = problem.mixed_losses()
    with (
        surgeon.mixed_batch([0, 0, 1, 1]),
        pytest.raises(OrthoLoraError, match="met a forward pass made outside `mixed_batch`"),
    ):
        surgeon.backward(losses)
    with surgeon.mixed_batch([0, 1]), pytest.raises(OrthoLoraError, match="it received 4 rows for 2 examples"):
        surgeon.backward(problem.mixed_losses())
    with surgeon.mixed_batch([0, 0, 1, 1]), pytest.raises(OrthoLoraError, match="expected `backward` there"):
        surgeon.backward_part("a", problem.mixed_losses()["a"])


def test_a_run_that_exists_is_refused_before_anything_is_watched(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(OrthoLoraError, match="run 'run' exists"):
        Recorder(tmp_path / "run")


def test_passes_by_length_give_what_one_pass_gives():
    """Halves are those of the whole batch, whichever pass an example is in."""
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    expected = backward(problem, surgeon, "mixed")
    update = problem.grads()
    problem.zero()
    for places in ([0, 3], [1], [2]):
        halves = [place // 2 for place in places] * 2
        with surgeon.mixed_batch([0] * len(places) + [1] * len(places), halves, weight_of_example=1):
            tokens = torch.cat([problem.tokens[task][places] for task in range(2)])
            states = problem.states(problem.model, tokens).split(len(places))
            losses = {
                name: len(places) / 4 * problem.error(task, states[task], places)
                for task, name in enumerate(problem.tasks)
            }
            measured = surgeon.backward(losses, accumulate=places != [2])
    assert_close(problem.grads(), update)
    torch.testing.assert_close(measured.gram, expected.gram)
    torch.testing.assert_close(measured.half_products, expected.half_products)
    torch.testing.assert_close(measured.losses, expected.losses)
    with (
        pytest.raises(OrthoLoraError, match=r"half_of_example: expected 0 or 1 for each of 2 examples, found \[0, 2\]"),
        surgeon.mixed_batch([0, 1], [0, 2]),
    ):
        pass
