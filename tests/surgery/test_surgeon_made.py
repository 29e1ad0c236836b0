"""What `OrthoLoRA` is made on, and with: other adapters, models that change, hooks that stay, wrong arguments."""

import gc
import warnings
import weakref

import pytest
import torch
from models import Problem, tiny_bert
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import BertConfig, BertModel
from ways_of_steps import SIZES, WAYS, assert_close, backward

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoraWarning


def bert():
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


OTHERS = {
    "ADALORA": AdaLoraConfig(target_modules=["query"], total_step=10),
    "VERA": VeraConfig(target_modules=["query"], r=4),
    "LOHA": LoHaConfig(target_modules=["query"], r=2),
    "IA3": IA3Config(target_modules=["query"], feedforward_modules=[]),
    "PROMPT_TUNING": PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_of_other_kinds_are_named(kind):
    with pytest.raises(OrthoLoraError, match=f"the model's adapter is of the kind {kind}, .*peft.LoraConfig"):
        OrthoLoRA(get_peft_model(bert(), OTHERS[kind]), ["a"])


def test_a_model_without_an_adapter_is_told_how_to_get_one():
    with pytest.raises(OrthoLoraError, match=r"expected one active LoRA adapter, found none: pass a PEFT model"):
        OrthoLoRA(bert(), ["a"])


def test_an_adapter_loaded_for_inference_is_told_how_to_train(tmp_path):
    get_peft_model(bert(), LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(bert(), tmp_path)
    with pytest.raises(OrthoLoraError, match=r"adapter 'default': nothing of it can be trained: .*is_trainable=True"):
        OrthoLoRA(loaded, ["a"])
    OrthoLoRA(PeftModel.from_pretrained(bert(), tmp_path, is_trainable=True), ["a"])


def hooks(model):
    on_layers = sum(len(part._forward_hooks) for part in model.modules())
    return on_layers + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_another_one_on_the_same_adapter_takes_the_place_of_the_first(way):
    problem = Problem(tiny_bert(), SIZES)
    bare = hooks(problem.model)
    first = OrthoLoRA(problem.model, problem.tasks)
    once = hooks(problem.model)
    second = OrthoLoRA(problem.model, problem.tasks)
    assert hooks(problem.model) == once > bare
    with pytest.raises(OrthoLoraError, match="another one was made on the same adapter: use that one"):
        backward(problem, first, way)
    measured = backward(problem, second, way)
    for gram, gradients in zip(measured.gram, problem.gradients(), strict=True):
        torch.testing.assert_close(gram, gradients @ gradients.T, rtol=1e-7, atol=1e-10)
    second.remove()
    assert hooks(problem.model) == bare
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_adapters_side_by_side_are_watched_side_by_side():
    model = tiny_bert()
    model.add_adapter("second", model.peft_config["default"])
    model.double()
    surgeons = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        surgeons[name] = OrthoLoRA(model, ["a", "b", "c"], adapter=name)
    for name, surgeon in surgeons.items():
        model.set_adapter(name)
        backward(Problem(model, SIZES), surgeon, "mixed")


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_is_converted_afterwards_is_served(way):
    """`.to` keeps the parameters, whatever it makes of their values."""
    problem, expected = Problem(tiny_bert().float(), SIZES), Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, scope="model", order="fixed")
    problem.model.double()
    expected.model.load_state_dict(problem.model.state_dict())
    backward(problem, surgeon, way)
    backward(expected, OrthoLoRA(expected.model, expected.tasks, scope="model", order="fixed"), way)
    assert_close(problem.grads(), expected.grads())


def test_a_model_whose_weights_are_new_ones_is_refused():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    problem.model.load_state_dict(tiny_bert(seed=1).state_dict(), assign=True)
    for way in WAYS:
        with pytest.raises(OrthoLoraError, match="weights are others than when this OrthoLoRA was made"):
            backward(problem, surgeon, way)
    backward(problem, OrthoLoRA(problem.model, problem.tasks), "mixed")


def test_training_past_a_surgeon_is_called_out():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)

    def plain(steps):
        for _ in range(steps):
            problem.loss(0).backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(2)
    with pytest.warns(OrthoLoraWarning, match=r"3 backward passes .* past its OrthoLoRA, .*call surgeon.backward"):
        plain(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(5)
        backward(problem, surgeon, "alone")


def test_a_surgeon_that_is_called_says_nothing_of_other_passes():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    backward(problem, surgeon, "alone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            problem.loss(0).backward()


LOSSES = {
    r"loss of task 'a': shape \[1\] given, expected a scalar": lambda loss: loss.view(1),
    "loss of task 'a': it is on no graph": lambda loss: loss.detach(),
    "loss of task 'a': float given, expected a tensor": lambda loss: loss.item(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sentence", LOSSES)
def test_losses_are_checked_where_they_enter(sentence, way):
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)

    def step():
        if way == "alone":
            return surgeon.backward(losses_of(problem.losses()))
        with surgeon.mixed_batch(problem.task_of_example):
            return surgeon.backward(losses_of(problem.mixed_losses()))

    def losses_of(losses):
        return losses | {"a": LOSSES[sentence](losses["a"])}

    with pytest.raises(OrthoLoraError, match=sentence):
        step()
    assert all(parameter.grad is None for parameter in problem.model.parameters())
    backward(problem, surgeon, way)


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ({}, "losses: none given"),
        ([1.0, 2.0], "losses: list given, expected losses by task"),
        ({0: None}, "task 0: expected one of a, b"),
        ({"x": None}, "task 'x': expected one of a, b"),
    ],
)
def test_losses_that_are_not_by_task_are_refused(losses, sentence):
    problem = Problem(tiny_bert(), [4, 4])
    with pytest.raises(OrthoLoraError, match=sentence):
        OrthoLoRA(problem.model, problem.tasks).backward(losses)
