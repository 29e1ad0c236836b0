"""`OrthoLoRATrainer` against loops written out, and beside plain `Trainer`."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from texts import (
    LENGTH,
    OLD,
    SEQUENTIAL,
    adapter,
    arguments,
    collate,
    datasets,
    llama,
    same,
    trainer,
)
from transformers import Trainer, TrainerCallback

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.trainers import versions
from ortho_lora.trainers.inside import STATE_NAME
from ortho_lora.trainers.task_dataset import TaskCollator, TaskDataset


def test_training_equals_a_loop_written_out(tmp_path):
    trained = trainer(tmp_path, of_args=SEQUENTIAL | {"lr_scheduler_type": "constant"})
    trained.train()

    model, tasks = llama(), datasets()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused="fused" in trained.args.optim)
    surgeon = OrthoLoRA(model, ["a", "b", "c"], seed=42)
    model.train()
    for step in range(6):
        losses = {}
        for task, texts in tasks.items():
            rows = [(4 * step + place) % 16 % len(texts) for place in range(4)]
            labels = texts.labels[rows]
            counted = labels if OLD else labels[:, 1:]  # as Trainer counts the tokens of a step
            items = torch.tensor(counted.numel())
            losses[task] = model(input_ids=texts.tokens[rows], labels=labels, num_items_in_batch=items).loss
        surgeon.backward(losses, weights=dict.fromkeys(losses, [1] * 4))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    same(adapter(trained.model), adapter(model))


class SumTrainer(Trainer):
    """Plain training on the sum of the tasks' losses, one backward pass a task."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        total = 0
        for batch in inputs.values():
            loss = self.compute_loss(model, batch) / versions.accumulated(self)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total


@pytest.mark.parametrize("accumulation", [1, 2])
def test_joint_is_plain_training_on_the_sum_bit_for_bit(tmp_path, accumulation):
    of_args = {"gradient_accumulation_steps": accumulation, "max_steps": 4}
    ours = trainer(tmp_path, llama(dropout=0.1), method="joint", of_args=of_args)
    ours.model_accepts_loss_kwargs = False  # losses are means over a batch, as in the trainer written out above
    ours.train()
    plain = SumTrainer(
        model=llama(dropout=0.1),
        args=arguments(tmp_path, remove_unused_columns=False, **of_args),
        data_collator=TaskCollator(
            lambda rows: collate([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
        ),
        train_dataset=TaskDataset(datasets(), seed=42),
    )
    plain.train()
    same(adapter(ours.model), adapter(plain.model))
    assert [entry["loss"] for entry in ours.state.log_history if "loss" in entry] == [
        entry["loss"] for entry in plain.state.log_history if "loss" in entry
    ]


def test_projection_changes_the_training(tmp_path):
    trained = [trainer(tmp_path, method=method) for method in ("joint", "ortho-lora")]
    for one in trained:
        one.train()
    with pytest.raises(AssertionError):
        same(*(adapter(one.model) for one in trained))


@pytest.mark.parametrize("padding", [False, True])
def test_accumulated_batches_are_one_large_batch(tmp_path, padding):
    """Also where the batches hold different numbers of tokens: a task's loss is the mean over all tokens of a step."""
    trained = []
    for size, accumulation in ((4, 1), (2, 2)):
        of_args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation} | SEQUENTIAL
        trained.append(trainer(tmp_path, llama().double(), datasets(padding), of_args=of_args))
        trained[-1].train()
    for name, value in adapter(trained[0].model).items():
        torch.testing.assert_close(adapter(trained[1].model)[name], value, rtol=1e-4, atol=1e-6)
    logs = [[entry["loss/a"] for entry in one.state.log_history if "loss/a" in entry] for one in trained]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


RESUMED = {
    "at the end of an epoch": {"save_steps": 4},
    "within an epoch": {"save_steps": 3},
    "with accumulation": {"save_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("given", [{}, {"rule": "gradvac", "scope": "model"}], ids=["ortho-lora", "gradvac"])
def test_a_resumed_training_is_bit_for_bit_that_without_interruption(tmp_path, name, given):
    settings = RESUMED[name] | {"save_strategy": "steps"}

    def start():
        return trainer(tmp_path, llama(dropout=0.1), of_args=settings, **given)

    whole = start()
    whole.train()
    checkpoint = tmp_path / f"checkpoint-{settings['save_steps']}"
    assert (checkpoint / STATE_NAME).is_file()
    torch.manual_seed(1234)
    resumed = start()
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.surgeon.step == 6
    same(adapter(resumed.model), adapter(whole.model))


def test_a_checkpoint_without_the_state_of_ours_is_called_out(tmp_path, caplog):
    trainer(tmp_path, of_args={"save_strategy": "steps", "save_steps": 3}).train()
    checkpoint = tmp_path / "checkpoint-3"
    (checkpoint / STATE_NAME).unlink()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert f"{checkpoint}: no {STATE_NAME} in it" in caplog.text
    assert resumed.surgeon.step == 6


def test_logs_hold_the_loss_of_each_task(tmp_path):
    trained = trainer(tmp_path, loss_weights={"b": 3.0})
    seen = []
    project = trained.training_step

    def training_step(*args, **kwargs):
        loss = project(*args, **kwargs)
        seen.append(loss.item())
        return loss

    trained.training_step = training_step
    trained.train()
    logs = [entry for entry in trained.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4, 6]
    for index, entry in enumerate(logs):
        rounded = 1e-4 if OLD else 0  # by Trainer
        assert entry["loss"] == pytest.approx(sum(seen[2 * index : 2 * index + 2]) / 2, rel=1e-6, abs=rounded)
        assert entry["loss"] == pytest.approx(
            entry["loss/a"] + 3 * entry["loss/b"] + entry["loss/c"], rel=1e-5, abs=rounded
        )


def test_the_model_is_watched_during_training_only(tmp_path):
    trained = trainer(tmp_path)
    hooks = lambda: sum(len(part._forward_hooks) for part in trained.model.modules())  # noqa: E731
    assert hooks() == 0
    counts = []
    trained.add_callback(type("Count", (TrainerCallback,), {"on_step_end": lambda *a, **k: counts.append(hooks())})())
    trained.train()
    assert counts == [8] * 6
    assert hooks() == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(tmp_path, reentrant):
    plain = trainer(tmp_path)
    plain.train()
    name = "gradient_checkpointing" if OLD else "activation_checkpointing"
    of_args = {name: True, f"{name}_kwargs": {"use_reentrant": reentrant}}
    model = llama()
    model.enable_input_require_grads()
    saving = trainer(tmp_path, model, of_args=of_args)
    saving.train()
    for name, value in adapter(plain.model).items():
        torch.testing.assert_close(adapter(saving.model)[name], value, rtol=1e-4, atol=1e-6)


def test_scaled_losses_leave_the_training_as_it_is(tmp_path):
    """As in float16, which accelerate allows on accelerators only: its scaler is put in by hand."""
    plain = trainer(tmp_path, of_args={"max_grad_norm": 0.0})
    plain.train()
    scaled = trainer(tmp_path, recorder=Recorder(tmp_path / "run"), of_args={"max_grad_norm": 0.0})
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled.train()
    same(adapter(plain.model), adapter(scaled.model))  # a power of two rounds nothing
    first = pq.read_table(part_files(tmp_path / "run", "norms")[0]).to_pylist()
    assert max(row["norm_before"] for row in first) < 10


def test_bfloat16(tmp_path):
    trained = trainer(tmp_path, of_args={"bf16": True})
    trained.train()
    assert all(value.isfinite().all() for value in adapter(trained.model).values())
    assert trained.state.log_history[0]["loss/a"] > 0


def test_a_model_made_late_is_the_one_that_is_watched(tmp_path):
    # In order: making the model draws random numbers, and the sampler would too.
    made = trainer(tmp_path, model_init=lambda: llama(), of_args=SEQUENTIAL)
    made.train()
    plain = trainer(tmp_path, of_args=SEQUENTIAL)
    plain.train()
    same(adapter(made.model), adapter(plain.model))


def test_tokens_and_operations_of_all_tasks_are_counted(tmp_path):
    counts = {"include_num_input_tokens_seen": True if OLD else "all"}
    if OLD:  # its loop looks for one batch
        with pytest.raises(OrthoLoraError, match="include_num_input_tokens_seen: transformers 4.* counts one batch a"):
            trainer(tmp_path, of_args=counts)
        return
    trained = trainer(tmp_path, of_args=counts)
    trained.train()
    assert trained.state.num_input_tokens_seen == 6 * 3 * 4 * LENGTH
    assert trained.state.total_flos > 0


def test_a_dict_survives_json(tmp_path):
    """Trainer writes its state, with the tasks' losses, as JSON."""
    trained = trainer(tmp_path, of_args={"save_strategy": "steps", "save_steps": 6})
    trained.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss/a"] == trained.state.log_history[0]["loss/a"]


def test_the_share_of_the_loss_that_each_example_carries(tmp_path):
    """Tokens that count, of sequences of labels; all alike, of labels; nothing where the loss is somebody else's."""
    ours = trainer(tmp_path)
    labels = torch.tensor([[1, 2, 3, 4], [-100, -100, 3, 4], [1, -100, -100, -100]])
    items = {"a": torch.tensor(10)}  # of a step of several micro-batches, by which the model divides
    assert ours._weights_of({"a": {"labels": labels}}, items) == {"a": [3, 2, 0]}
    assert ours._weights_of({"a": {"labels": torch.tensor([0, 1])}}, items) == {"a": [1, 1]}
    assert ours._weights_of({"a": {"labels": torch.rand(2, 5)}}, items) == {"a": [1, 1]}  # several classes at once
    assert ours._weights_of({"a": {}, "b": 3}, items) == {}
    ours.model_accepts_loss_kwargs = False  # each micro-batch's loss is a mean of its own
    (weights,) = ours._weights_of({"a": {"labels": labels}}, {"a": None}).values()
    assert weights == pytest.approx([0.6, 0.4, 0])
    ours.compute_loss_func = lambda outputs, labels, **_: outputs.logits.mean()
    assert ours._weights_of({"a": {"labels": labels}}, items) == {}
