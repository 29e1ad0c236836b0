"""How many examples of each task a step holds, and whether losses are summed or averaged."""

from collections import Counter

import pytest
import torch
from texts import OLD, SEQUENTIAL, Texts, adapter, datasets, llama, same, trainer
from transformers import TrainingArguments

from ortho_lora import OrthoLoRA, OrthoLoraError
from ortho_lora.trainers.task_dataset import TaskCollator, TaskDataset, shares

LENGTHS = {"a": 80, "b": 20, "c": 5}


def drawn(sampling, batch=4):
    """By task, how often each of its examples comes in an epoch, and how many of each batch holds."""
    joined = TaskDataset({task: range(length) for task, length in LENGTHS.items()}, seed=0, sampling=sampling)
    collate = TaskCollator(list)
    items = [joined[k] for k in range(len(joined))]
    found = [collate(items[first : first + batch]) for first in range(0, len(items), batch)]
    return {task: Counter(one for of in found for one in of.get(task, [])) for task in LENGTHS}, found


@pytest.mark.parametrize(
    ("sampling", "powers"),
    [
        ("equal", {"a": 1, "b": 1, "c": 1}),
        ("proportional", LENGTHS),
        (1.0, LENGTHS),
        (2.0, {task: length**0.5 for task, length in LENGTHS.items()}),
        (1e9, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_a_step_holds_as_many_of_each_task_as_its_share(sampling, powers):
    expected = {task: 3 * power / sum(powers.values()) for task, power in powers.items()}
    assert shares(LENGTHS, sampling) == pytest.approx(expected, rel=1e-6)
    counts, batches = drawn(sampling)
    for task, share in expected.items():
        assert abs(counts[task].total() / sum(of.total() for of in counts.values()) - share / 3) < 0.02
        assert set(counts[task]) == set(range(LENGTHS[task]))  # an epoch passes through every dataset
        assert max(counts[task].values()) - min(counts[task].values()) <= 1
        assert all(abs(len(of.get(task, [])) - 4 * share) < 1 + 1e-6 for of in batches[:-1])
    assert all(batches)  # no batch is empty


def test_proportional_is_each_example_once():
    counts, _ = drawn("proportional")
    assert [sum(of.values()) for of in counts.values()] == list(LENGTHS.values())


def loss_of(model, texts, rows):
    """The mean over the tokens of a step, as Trainer counts them."""
    tokens, labels = texts.tokens[list(rows)], texts.labels[list(rows)]
    items = torch.tensor((labels if OLD else labels[:, 1:]).numel())
    return model(input_ids=tokens, labels=labels, num_items_in_batch=items).loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_of_uneven_numbers_is_that_of_a_loop_written_out(tmp_path, accumulation):
    """Each task's loss is the mean over its own examples of the step; one may be missing from a batch."""
    tasks = {"a": Texts(16, 1), "b": Texts(12, 2), "c": Texts(2, 3)}
    of_args = SEQUENTIAL | {
        "lr_scheduler_type": "constant", "max_steps": 4 // accumulation, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation, "max_grad_norm": 0.0,
    }  # fmt: skip
    trained = trainer(tmp_path, llama().double(), tasks, sampling="proportional", order="fixed", of_args=of_args)
    joined = TaskDataset(tasks, None, "proportional")
    trained.train()

    model = llama().double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    surgeon = OrthoLoRA(model, list(tasks), order="fixed")
    model.train()
    present = Counter()
    for step in range(4 // accumulation):
        items = range(2 * accumulation * step, 2 * accumulation * (step + 1))
        losses = {}
        for task, texts in tasks.items():
            rows = [place for item in items for place in joined.places(task, item % len(joined))]
            if rows:
                losses[task] = loss_of(model, texts, rows)
        present.update(losses.keys())
        surgeon.backward(losses)
        optimizer.step()
        optimizer.zero_grad()
    assert present["c"] < present["a"]  # of which a step knew nothing
    for name, value in adapter(trained.model).items():
        torch.testing.assert_close(value, adapter(model)[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_update_is_the_reduction_of_the_tasks_losses(tmp_path, reduction):
    """One step of plain descent against autograd; what is logged and evaluated is reduced alike."""
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "logging_steps": 1}
    trained = trainer(
        tmp_path, llama(), method="joint", reduction=reduction, loss_weights={"b": 2.0},
        eval_dataset={"a": Texts(5, 7), "b": Texts(9, 8), "c": Texts(4, 9)}, of_args=SEQUENTIAL | settings,
    )  # fmt: skip
    before = adapter(trained.model)
    trained.train()

    model, factor = llama(), {"sum": 1, "mean": 1 / 3}[reduction]
    each = {task: loss_of(model, texts, range(4)) for task, texts in datasets().items()}
    (factor * (each["a"] + 2 * each["b"] + each["c"])).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            step = before[name] - adapter(trained.model)[name]
            torch.testing.assert_close(step, parameter.grad, rtol=1e-4, atol=1e-6)
    (logged,) = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    expected = factor * sum(weight * each[task].item() for task, weight in (("a", 1), ("b", 2), ("c", 1)))
    assert logged == pytest.approx(expected, rel=1e-3)
    found = trained.evaluate()
    reduced = found["eval_a_loss"] + 2 * found["eval_b_loss"] + found["eval_c_loss"]
    assert found["eval_loss"] == pytest.approx(factor * reduced)


def test_uneven_numbers_change_the_training_and_can_be_done_again(tmp_path):
    trained = [trainer(tmp_path, sampling=sampling) for sampling in ("equal", 2.0, 2.0)]
    for one in trained:
        one.train()
    same(adapter(trained[1].model), adapter(trained[2].model))
    with pytest.raises(AssertionError):
        same(adapter(trained[0].model), adapter(trained[1].model))


@pytest.mark.parametrize("given", ["even", 0, -1.0, True, float("inf"), float("nan"), None])
def test_what_is_no_sampling_is_refused(tmp_path, given):
    with pytest.raises(OrthoLoraError, match=r"sampling: .* given, expected 'equal', 'proportional', or a temperature"):
        trainer(tmp_path, sampling=given)


def test_on_several_processes_only_equal_numbers_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(OrthoLoraError, match=r"sampling: 2\.0 given on 2 processes, .*: expected 'equal' there"):
        trainer(tmp_path, sampling=2.0)


def test_what_is_no_reduction_is_refused(tmp_path):
    with pytest.raises(OrthoLoraError, match=r"reduction: 'median' given, expected 'sum' or 'mean'"):
        trainer(tmp_path, reduction="median")
