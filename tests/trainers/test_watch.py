"""`watch` inside plain `Trainer`s: the same training bit for bit, and what it tells."""

import warnings

import pytest
import torch
from datasets import interleave_datasets
from mixtures import made, mixed
from models import VOCABULARY
from peft import LoraConfig, get_peft_model
from texts import OLD, adapter, llama, same, steps_of, table, trains_as_without
from transformers import (
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoraWarning, Recorder, watch
from ortho_lora.trainers.mixture import KEY

CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
CASES = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "checkpointing": {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}},
    "reentrant": {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
    "bfloat16": {"bf16": True},
    "by length": {"group_by_length": True} if OLD else {"train_sampling_strategy": "group_by_length"},
    "workers": {"dataloader_num_workers": 1},
    "smoothed": {"label_smoothing_factor": 0.1},
}


@pytest.mark.parametrize("of_args", CASES.values(), ids=CASES)
def test_the_training_is_that_of_the_trainer_alone_bit_for_bit(tmp_path, of_args):
    alone, watched = (made(tmp_path / name, **of_args) for name in ("alone", "watched"))
    for one in (alone, watched):
        if of_args.get(CHECKPOINTING):
            one.model.enable_input_require_grads()
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    assert sorted(set(steps_of(tmp_path / "run"))) == list(range(6))
    assert {row["task_i"] for row in table(tmp_path / "run", "pairs")} == {"chat", "code"}


def test_a_stream_of_several_data_sets(tmp_path):
    def data():
        apart = [mixed(seed=seed).to_iterable_dataset() for seed in (1, 2)]
        return interleave_datasets(apart, probabilities=[0.7, 0.3], seed=0)

    alone, watched = (made(tmp_path / name, data()) for name in ("alone", "watched"))
    with pytest.raises(OrthoLoraError, match=r"a stream, which cannot be read through beforehand: name the values"):
        watch(watched, "source")
    watch(watched, "source", tasks=["qa", "code", "chat"])
    trains_as_without(alone, watched)


def items(batch):
    """Labels, as Trainer counts those of a step."""
    return (batch["labels"] if OLD else batch["labels"][:, 1:]).ne(-100).sum()


def test_what_is_recorded_is_what_autograd_finds_for_each_task_alone(tmp_path):
    """Of the loss's own mixture: a mean over all labels of the batch."""
    watched = made(tmp_path / "out", model=llama(), max_steps=1, per_device_train_batch_size=12, logging_steps=1)
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    seen, collator = [], watched.data_collator
    watched.data_collator = lambda rows: seen.append(collator(rows)) or dict(seen[-1])
    watched.train()

    batch, model = seen[0], llama()
    tasks = batch.pop(KEY)
    whole = items(batch)
    blocks = OrthoLoRA(model, ["chat", "code", "qa"]).blocks
    found = {
        (row["layer"], row["module"], row["branch"], row["task"]): row["norm_before"]
        for row in table(tmp_path / "run", "norms")
    }
    assert len(found) == 3 * len(blocks)
    for task, source in enumerate(("chat", "code", "qa")):
        labels = batch["labels"].where((tasks == task)[:, None], -100)
        loss = model(**batch | {"labels": labels}, num_items_in_batch=whole).loss
        gradients = torch.autograd.grad(loss, [block.parameter for block in blocks])
        for block, gradient in zip(blocks, gradients, strict=True):
            expected = pytest.approx(gradient.norm().item(), rel=1e-5, abs=1e-9)
            assert found[block.layer, block.module, block.branch, source] == expected
        alone = model(**batch | {"labels": labels}).loss.item()
        assert watched.state.log_history[0][f"loss/{source}"] == pytest.approx(alone, rel=1e-5)


def test_projection_is_that_of_the_losss_own_mixture(tmp_path):
    """One step of plain descent: the sum of the projected shares, as `mixed_batch` with the same loss has it."""
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    watched = made(tmp_path, model=llama(), per_device_train_batch_size=12, max_grad_norm=0.0, **settings)
    before = adapter(watched.model)
    watch(watched, "source", method="ortho-lora", order="fixed")
    seen, collator = [], watched.data_collator
    watched.data_collator = lambda rows: seen.append(collator(rows)) or dict(seen[-1])
    watched.train()

    batch, model = seen[0], llama()
    tasks = batch.pop(KEY).tolist()
    surgeon = OrthoLoRA(model, ["chat", "code", "qa"], order="fixed")
    with surgeon.mixed_batch(tasks):
        surgeon.backward(model(**batch, num_items_in_batch=items(batch)).loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                before[name] - adapter(watched.model)[name], parameter.grad, atol=1e-7, rtol=1e-4
            )


def test_a_resumed_training_is_the_one_that_was_not_interrupted(tmp_path):
    """And so is its record: no row is missing or twice."""
    whole = made(tmp_path / "whole")
    watch(whole, "source", method="ortho-lora", recorder=Recorder(tmp_path / "run"))
    whole.train()

    first = made(tmp_path / "cut", save_strategy="steps", save_steps=3)
    watch(first, "source", method="ortho-lora", recorder=Recorder(tmp_path / "cut-run"))
    first.add_callback(_StopAfter(4))
    first.train()
    again = made(tmp_path / "cut", save_strategy="steps", save_steps=3)
    watch(again, "source", method="ortho-lora", recorder=Recorder(tmp_path / "cut-run", resume=True))
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    same(adapter(whole.model), adapter(again.model))
    for name in ("steps", "pairs", "norms"):
        found = [[_stable(row) for row in table(tmp_path / run, name)] for run in ("run", "cut-run")]
        assert found[0] == found[1]


class _StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == self.step


def _stable(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "learning_rate")}


def test_what_is_evaluated_needs_no_tasks_and_may_have_them(tmp_path):
    found = []
    for data in (mixed(8, seed=3), mixed(8, seed=3).remove_columns("source")):
        watched = made(tmp_path, eval_dataset=data, eval_strategy="steps", eval_steps=3)
        watch(watched, "source")
        watched.train()
        found.append([entry["eval_loss"] for entry in watched.state.log_history if "eval_loss" in entry])
        assert watched.predict(data).predictions.shape[0] == 8
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_a_set_by_tasks_is_evaluated_into_the_record(tmp_path):
    apart = {"qa": mixed(6, seed=3), "else": mixed(6, seed=4)}
    watched = made(tmp_path / "out", eval_dataset=apart, eval_strategy="steps", eval_steps=3)
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    watched.train()
    found = [(row["step"], row["task"]) for row in table(tmp_path / "run", "metrics") if row["metric"] == "loss"]
    assert found == [(3, "qa"), (6, "qa")]


class Contrastive(Trainer):
    """Each row is to be told from all others of its batch, whatever their task."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.mean(1)
        return torch.nn.functional.cross_entropy(states @ states.detach().T, torch.arange(len(states)))


def test_a_loss_that_mixes_tasks_is_said_to(tmp_path):
    """What is recorded is then not the gradient of a task's own loss."""
    watched = made(tmp_path, kind=Contrastive)
    watch(watched, "source")
    with pytest.warns(OrthoLoraWarning, match=r"the loss of a batch of Contrastive is not that of its tasks' rows"):
        watched.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrthoLoraWarning)
        for given in ({}, {"gradient_accumulation_steps": 2}, {"bf16": True}):
            plain = made(tmp_path, max_steps=1, **given)
            watch(plain, "source")
            plain.train()


class Alone(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, inputs)
        loss.backward()
        return loss.detach()


def test_what_cannot_be_watched_is_refused(tmp_path):
    def refused(message, data=None, kind=Trainer, column="source", model=None, **given):
        trainer = made(tmp_path, data, model, kind=kind, max_steps=1)
        with pytest.raises(OrthoLoraError, match=message):
            watch(trainer, column, **given)
        assert type(trainer) is kind
        trainer.train()  # as if nothing had been

    refused(r"task_column: 'origin' given, and the training data has input_ids, labels, source", column="origin")
    refused(r"method 'none': expected one of", method="none")
    plain = LlamaForCausalLM(llama().get_base_model().config)
    dora = get_peft_model(plain, LoraConfig(target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM"))
    refused(
        r"plain LoRA on linear layers, and q_proj are not: train with OrthoLoRATrainer, which gives each", model=dora
    )
    trainer = made(tmp_path, max_steps=1)
    watch(trainer, "source", tasks=["qa", "code"])
    with pytest.raises(OrthoLoraError, match=r"task_column 'source': a row says 'chat', expected one of qa, code"):
        trainer.train()
    with pytest.raises(OrthoLoraError, match=r"this Trainer has a surgeon inside"):
        watch(trainer, "source")
    trainer = made(tmp_path, kind=Alone, max_steps=1)
    watch(trainer, "source")
    with pytest.raises(OrthoLoraError, match=r"Alone makes its backward pass by itself, not by `accelerator.backward`"):
        trainer.train()


def test_numbers_may_name_tasks(tmp_path):
    """As they stand, or as a feature of the data set names them."""
    plain = mixed()
    numbers = [["chat", "code", "qa"].index(source) for source in plain["source"]]
    data = plain.remove_columns("source").add_column("source", numbers)
    for of, expected in ((data, ["0", "1", "2"]), (plain.class_encode_column("source"), ["chat", "code", "qa"])):
        watched = made(tmp_path, of, max_steps=2)
        watch(watched, "source")
        watched.train()
        assert watched.surgeon.tasks == expected
        assert {f"loss/{task}" for task in expected} <= set(watched.state.log_history[0])


def test_of_many_tasks_pairs_are_logged_when_asked_for(tmp_path):
    data = mixed()
    data = data.remove_columns("source").add_column("source", [f"t{row % 9}" for row in range(len(data))])
    for asked in (None, True):
        watched = made(tmp_path, data, max_steps=2, per_device_train_batch_size=18)
        watch(watched, "source", log_pairs=asked)
        watched.train()
        entry = watched.state.log_history[0]
        assert ("cosine/t0~t1" in entry) == bool(asked)
        assert ("cosine/lowest" in entry) == (not asked)
        assert "loss/t8" in entry


def test_an_encoder_with_a_decoder(tmp_path):
    """Both have a row for each example."""

    def trainer(path):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        lora = LoraConfig(r=3, target_modules=["q", "v"], lora_dropout=0.1, task_type="SEQ_2_SEQ_LM")
        model = get_peft_model(T5ForConditionalGeneration(config), lora)
        return made(path, model=model, kind=Seq2SeqTrainer, args=Seq2SeqTrainingArguments)

    alone, watched = trainer(tmp_path / "alone"), trainer(tmp_path / "watched")
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    assert "loss/qa" in watched.state.log_history[0]


def test_a_loss_that_balances_experts_is_said_to(tmp_path):
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=1, output_router_logits=True,
        router_aux_loss_coef=1.0,
    )  # fmt: skip
    lora = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    watched = made(tmp_path, model=get_peft_model(MixtralForCausalLM(config), lora), max_steps=1)
    watch(watched, "source")
    with pytest.warns(OrthoLoraWarning, match=r"by a loss that balances experts"):
        watched.train()


def test_steps_of_one_task_each_are_said_to_be(tmp_path):
    """As where data sets take turns; micro-batches of several tasks are compared."""
    data = mixed(120)
    order = sorted(range(len(data)), key=lambda row: (data["source"][row], row))
    for accumulation, expected in ((1, True), (12, False)):
        given = {"gradient_accumulation_steps": accumulation, "max_steps": 11, "per_device_train_batch_size": 2}
        watched = made(tmp_path, data.select(order), **given)
        watched._get_train_sampler = lambda *_: None  # in the order in which they stand
        watch(watched, "source")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", OrthoLoraWarning)
            watched.train()
        assert any("none of the first 10 steps held rows of two tasks" in str(one.message) for one in found) == expected
