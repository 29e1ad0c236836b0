"""`watch` inside plain `Trainer`s: the same training bit for bit, and what it tells."""

import pytest
import torch
from datasets import Dataset, interleave_datasets
from models import VOCABULARY
from texts import OLD, adapter, arguments, llama, logs, same, steps_of, table
from transformers import Trainer, TrainingArguments

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder, watch
from ortho_lora.trainers.mixture import KEY

LENGTHS = (4, 9)


def mixed(rows=48, seed=0):
    """Texts of three sources, of other lengths and in other numbers, with labels on some tokens only."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for row in range(rows):
        length = int(torch.randint(*LENGTHS, (), generator=generator))
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        told = row % 3 + 1  # a prompt that has no labels
        source = ("qa", "code", "chat")[int(torch.randint(3, (), generator=generator))]
        found.append({"input_ids": tokens, "labels": [-100] * told + tokens[told:], "source": source, "length": length})
    return Dataset.from_list(found)


def collate(rows):
    """Pads."""
    assert "source" not in rows[0]
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": padded("labels", -100)}


def made(path, data=None, model=None, kind=Trainer, **of_args):
    return kind(
        model=llama(dropout=0.1) if model is None else model,
        args=arguments(path, **of_args),
        data_collator=collate,
        train_dataset=mixed() if data is None else data,
    )


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
    for one in (alone, watched):
        torch.manual_seed(1)  # of dropout
        one.train()
    same(adapter(alone.model), adapter(watched.model))
    assert logs(alone) == logs(watched)
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
    for one in (alone, watched):
        torch.manual_seed(1)
        one.train()
    same(adapter(alone.model), adapter(watched.model))
    assert logs(alone) == logs(watched)


def test_what_is_recorded_is_what_autograd_finds_for_each_task_alone(tmp_path):
    """Of the loss's own mixture: a mean over all labels of the batch."""
    watched = made(tmp_path / "out", model=llama(), max_steps=1, per_device_train_batch_size=12, logging_steps=1)
    watch(watched, "source", recorder=Recorder(tmp_path / "run"))
    seen, collator = [], watched.data_collator
    watched.data_collator = lambda rows: seen.append(collator(rows)) or dict(seen[-1])
    watched.train()

    batch, model = seen[0], llama()
    tasks = batch.pop(KEY)
    whole = batch["labels"][:, 1:].ne(-100).sum()
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
        surgeon.backward(model(**batch, num_items_in_batch=batch["labels"][:, 1:].ne(-100).sum()).loss)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                before[name] - adapter(watched.model)[name], parameter.grad, atol=1e-7, rtol=1e-4
            )
