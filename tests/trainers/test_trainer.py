"""`OrthoLoRATrainer` against loops written out, and beside plain `Trainer`."""

import json
import math
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from texts import LENGTH, Texts, adapter, arguments, collate, datasets, llama
from torch.utils.data import IterableDataset
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
)

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoRATrainer, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_run, read_status
from ortho_lora.trainers.task_dataset import TaskCollator, TaskDataset
from ortho_lora.trainers.trainer import STATE_NAME


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny models gain nothing from two, and on a busy machine lose most of their time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(path, model=None, train=None, *, of_args=None, **given):
    return OrthoLoRATrainer(
        model=llama() if model is None else model,
        args=arguments(path, **(of_args or {})),
        data_collator=collate,
        train_dataset=datasets() if train is None else train,
        **given,
    )


def same(a, b):
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)


SEQUENTIAL = {"train_sampling_strategy": "sequential"}


def test_training_equals_a_loop_written_out(tmp_path):
    trained = trainer(tmp_path, of_args=SEQUENTIAL | {"lr_scheduler_type": "constant"})
    trained.train()

    model, tasks = llama(), datasets()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    surgeon = OrthoLoRA(model, ["a", "b", "c"], seed=42)
    model.train()
    for step in range(6):
        losses = {}
        for task, texts in tasks.items():
            rows = [(4 * step + place) % 16 % len(texts) for place in range(4)]
            labels = texts.labels[rows]
            items = torch.tensor(labels[:, 1:].numel())  # as Trainer counts the tokens of a step
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
            loss = self.compute_loss(model, batch) / self.current_gradient_accumulation_steps
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
    logs = [[entry["loss_a"] for entry in one.state.log_history if "loss_a" in entry] for one in trained]
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
        assert entry["loss"] == pytest.approx(sum(seen[2 * index : 2 * index + 2]) / 2, rel=1e-6)
        assert entry["loss"] == pytest.approx(entry["loss_a"] + 3 * entry["loss_b"] + entry["loss_c"], rel=1e-5)


def test_evaluation_names_the_tasks_and_can_stop_early(tmp_path):
    trained = trainer(
        tmp_path / "out",
        eval_dataset={"a": Texts(5, 7), "b": Texts(9, 8)},
        compute_metrics=lambda prediction: {"first": float(prediction.label_ids[0, 0])},
        callbacks=[EarlyStoppingCallback(1, early_stopping_threshold=1e9)],
        recorder=Recorder(tmp_path / "run"),
        of_args={
            "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 10,
            "load_best_model_at_end": True, "metric_for_best_model": "eval_b_loss",
        },
    )  # fmt: skip
    trained.train()
    assert trained.state.global_step == 2  # no second evaluation is better by 1e9
    status = read_status(tmp_path / "run")
    assert (status.state, status.step, status.total) == ("finished", 2, 10)
    assert status.message == "a callback ended it after step 2 of 10"
    evaluated = [entry for entry in trained.state.log_history if "eval_a_loss" in entry]
    assert len(evaluated) == 2
    rows = [row for part in part_files(tmp_path / "run", "metrics") for row in pq.read_table(part).to_pylist()]
    assert {(row["step"], row["task"], row["metric"]) for row in rows} == {
        (step, task, metric) for step in (1, 2) for task in "ab" for metric in ("loss", "first")
    }
    assert {row["task"]: row["examples"] for row in rows} == {"a": 5, "b": 9}
    losses = [row["value"] for row in rows if (row["task"], row["metric"]) == ("a", "loss")]
    assert losses == [entry["eval_a_loss"] for entry in evaluated]


def test_the_record_is_complete(tmp_path):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), record_every=2, loss_weights={"c": 0.5})
    trained.train()
    info = read_run(tmp_path / "run")
    assert (info.task_names, info.method, info.seed) == (["a", "b", "c"], "ortho-lora", 42)
    assert [task.loss_weight for task in info.tasks] == [1, 1, 0.5]
    status = read_status(tmp_path / "run")
    assert (status.state, status.step, status.total, status.message) == ("finished", 6, 6, "")
    tables = {
        table: [row for part in part_files(tmp_path / "run", table) for row in pq.read_table(part).to_pylist()]
        for table in ("steps", "pairs", "norms")
    }
    assert [row["step"] for row in tables["steps"]] == [step for step in range(6) for _ in range(3)]
    rates = [row["learning_rate"] for row in tables["steps"][::3]]
    assert rates == pytest.approx([0.01 * (1 - step / 6) for step in range(6)])
    assert sorted(row["order"] for row in tables["steps"][:3]) == [0, 1, 2]
    blocks = 2 * 2 * 2  # layers, modules, branches
    for table, rows in (("pairs", 3), ("norms", 3)):
        assert [row["step"] for row in tables[table]] == [step for step in (0, 2, 4) for _ in range(blocks * rows)]
    a_loss = [row["loss"] for row in tables["steps"] if row["task"] == "a"]
    logged = [entry["loss_a"] for entry in trained.state.log_history if "loss_a" in entry]
    assert logged == pytest.approx([sum(a_loss[k : k + 2]) / 2 for k in (0, 2, 4)], rel=1e-5)
    assert all(row["half_product"] is not None for row in tables["norms"])
    assert all(module.path.startswith("base_model.model.model.layers.") for module in info.modules)


class StopAt(TrainerCallback):
    def __init__(self, error):
        self.error = error

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [(ValueError("disk full"), "failed", "disk full"), (KeyboardInterrupt(), "stopped", "interrupted")],
)
def test_the_record_says_how_a_training_ended(tmp_path, error, state, message):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), callbacks=[StopAt(error)])
    with pytest.raises(type(error)):
        trained.train()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step, status.message) == (state, 2, message)
    assert sum(pq.read_table(part).num_rows for part in part_files(tmp_path / "run", "steps")) == 6


def steps_of(run_dir, table="steps"):
    return [row["step"] for part in part_files(run_dir, table) for row in pq.read_table(part).to_pylist()]


def table(run_dir, name):
    return [row for part in part_files(run_dir, name) for row in pq.read_table(part).to_pylist()]


def test_too_little_data_for_a_batch_is_refused_and_leaves_no_run(tmp_path):
    of_args = {"dataloader_drop_last": True, "per_device_train_batch_size": 20}
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), of_args=of_args)
    with pytest.raises(OrthoLoraError, match="longest task has 16 examples, too few for a batch of 20 .*drop_last"):
        trained.train()
    assert not (tmp_path / "run").exists()


def test_a_training_that_is_ended_before_its_first_step_has_failed(tmp_path, monkeypatch):
    def end(self, args, state, control, **kwargs):
        control.should_training_stop = True

    ends = type("Ends", (TrainerCallback,), {"on_epoch_begin": end})()
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), callbacks=[ends])
    monkeypatch.setattr(trained, "_run_epoch", lambda *args, **kwargs: None)  # Trainer looks after a step only
    trained.train()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("failed", 0)
    assert status.message == "no step was recorded: the training ended before its first step"


def test_a_directory_that_is_deleted_ends_a_training_with_the_reason(tmp_path):
    def delete(self, args, state, control, **kwargs):
        if state.global_step == 2:
            shutil.rmtree(tmp_path / "run")

    deletes = type("Deletes", (TrainerCallback,), {"on_step_end": delete})()
    recorder = Recorder(tmp_path / "run", flush_seconds=0)
    trained = trainer(tmp_path / "out", recorder=recorder, callbacks=[deletes], of_args={"max_steps": 10_000})
    with pytest.raises(OrthoLoraError, match="run: the run's directory is gone: it was deleted"):
        trained.train()


class Hungry(TrainerCallback):
    """Stands for a memory that holds so many rows of a batch in a pass."""

    def __init__(self, rows):
        self.rows = rows

    def on_train_begin(self, args, state, control, model, **kwargs):
        def look(module, inputs, kwargs):
            if len(kwargs["input_ids"]) > self.rows:
                raise RuntimeError("CUDA out of memory.")

        self.handle = model.register_forward_pre_hook(look, with_kwargs=True)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_batch_size_that_fits_is_found_as_by_a_plain_trainer(tmp_path, recorded):
    of_args = {"auto_find_batch_size": True, "per_device_train_batch_size": 8, **SEQUENTIAL}
    recorder = Recorder(tmp_path / "run", flush_seconds=0) if recorded else None
    found = trainer(tmp_path, of_args=of_args, callbacks=[Hungry(2)], recorder=recorder)
    found.train()
    assert found._train_batch_size == 2
    told = trainer(tmp_path, of_args=SEQUENTIAL | {"per_device_train_batch_size": 2})
    told.train()
    same(adapter(found.model), adapter(told.model))
    if recorded:
        assert steps_of(tmp_path / "run") == [step for step in range(6) for _ in range(3)]
        assert read_status(tmp_path / "run").state == "finished"
        assert [row["reason"] for row in table(tmp_path / "run", "events")] == [
            "out of memory: again with 2 examples of a task"
        ]


def test_metrics_that_are_no_numbers_are_left_to_trainer(tmp_path):
    odd = {"word": "yes", "list": [1, 2], "none": None, "nested": {"x": 1}, "three": 3, "half": np.float32(0.5)}
    trained = trainer(
        tmp_path / "out",
        recorder=Recorder(tmp_path / "run"),
        eval_dataset={"a": Texts(5, 7)},
        compute_metrics=lambda prediction: dict(odd),
        of_args={"eval_strategy": "steps", "eval_steps": 6},
    )
    trained.train()
    logged = next(entry for entry in trained.state.log_history if "eval_a_loss" in entry)
    assert logged["eval_a_word"] == "yes"
    assert read_status(tmp_path / "run").state == "finished"
    values = {row["metric"]: row["value"] for row in table(tmp_path / "run", "metrics")}
    assert values == {"three": 3.0, "half": 0.5, "loss": logged["eval_a_loss"]}


@pytest.mark.parametrize("evaluated", ["tasks", "one"])
def test_the_best_model_is_loaded_at_the_end(tmp_path, evaluated):
    """By default the one with the least loss, which of several tasks is their weighted sum."""
    trained = trainer(
        tmp_path / "out",
        eval_dataset={"a": Texts(5, 7), "b": Texts(9, 8)} if evaluated == "tasks" else Texts(5, 7),
        recorder=Recorder(tmp_path / "run"),
        loss_weights={"a": 3.0},
        of_args={
            "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
            "load_best_model_at_end": True, "learning_rate": 1.0,
        },
    )  # fmt: skip
    trained.train()
    assert read_status(tmp_path / "run").state == "finished"
    evaluations = {}
    for entry in trained.state.log_history:
        weights = {"eval_loss": 1, "eval_a_loss": 3, "eval_b_loss": 1}
        found = sum(weight * entry[key] for key, weight in weights.items() if key in entry)
        evaluations[entry["step"]] = evaluations.get(entry["step"], 0) + found
    best = min(range(1, 7), key=lambda step: evaluations[step])
    assert trained.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{best}")
    assert best < 6  # else nothing was loaded
    saved = load_file(tmp_path / "out" / f"checkpoint-{best}" / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): value for name, value in adapter(trained.model).items()}
    same(loaded, saved)


def test_a_relative_directory_is_where_it_was_when_it_was_named(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    moves = type("Moves", (TrainerCallback,), {"on_step_end": lambda *a, **k: os.chdir(tmp_path / "elsewhere")})()
    trainer(tmp_path / "out", recorder=Recorder("runs/mine", flush_seconds=0), callbacks=[moves]).train()
    assert steps_of(tmp_path / "runs" / "mine") == [step for step in range(6) for _ in range(3)]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("process", ["the same", "another"])
def test_a_resumed_training_goes_on_with_its_record(tmp_path, process):
    saves = {"save_strategy": "steps", "save_steps": 3}
    whole = trainer(tmp_path / "whole", recorder=Recorder(tmp_path / "runs" / "whole"), of_args=saves)
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    def start(**given):
        return trainer(tmp_path / "out", recorder=Recorder(tmp_path / "runs" / "mine", **given), of_args=saves)

    cut = start()
    stop = Stop()
    cut.add_callback(stop)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert read_status(tmp_path / "runs" / "mine").state == "stopped"
    cut.remove_callback(stop)
    resumed = cut if process == "the same" else start(resume=True)
    resumed.train(resume_from_checkpoint=True)
    status = read_status(tmp_path / "runs" / "mine")
    assert (status.state, status.step, status.total) == ("finished", 6, 6)
    for name in ("steps", "pairs", "norms"):
        found, expected = table(tmp_path / "runs" / "mine", name), table(tmp_path / "runs" / "whole", name)
        assert [{k: v for k, v in row.items() if k != "seconds"} for row in found] == [
            {k: v for k, v in row.items() if k != "seconds"} for row in expected
        ]


def test_a_record_of_another_training_is_not_gone_on_with(tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), of_args=saves).train()
    other = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run", resume=True), method="joint", of_args=saves)
    with pytest.raises(OrthoLoraError, match="is the record of another training, whose method differ"):
        other.train(resume_from_checkpoint=True)
    again = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run", resume=True), of_args=saves)
    with pytest.raises(OrthoLoraError, match="run holds a training already|step 0 given, and .* holds steps to 5"):
        again.train()
    assert read_status(tmp_path / "run").state == "finished"
    assert steps_of(tmp_path / "run") == [step for step in range(6) for _ in range(3)]


class Poison(TrainerCallback):
    """Makes the loss of every batch of the second task NaN, in one step."""

    def __init__(self, at, value=float("nan")):
        self.at, self.value, self.now = at, value, False

    def on_step_begin(self, args, state, control, **kwargs):
        self.now = state.global_step == self.at

    def watch(self, trained):
        plain, calls = trained.compute_loss, []

        def compute_loss(*args, **kwargs):
            calls.append(1)
            loss = plain(*args, **kwargs)
            return loss * self.value if self.now and len(calls) % 3 == 2 else loss

        trained.compute_loss = compute_loss
        trained.add_callback(self)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_a_training_and_names_the_task(tmp_path, value):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"))
    Poison(3, value).watch(trained)
    with pytest.raises(OrthoLoraError, match=rf"task 'b': its loss is not finite at step 3 \(loss {value}\)"):
        trained.train()
    status = read_status(tmp_path / "run")
    assert (status.state, status.step) == ("failed", 4)
    assert "'b'" in status.message
    assert str(status.losses["b"]) == str(value)
    assert [(row["step"], row["event"], row["task"]) for row in table(tmp_path / "run", "events")] == [
        (3, "nonfinite", "b")
    ]


def test_a_loss_that_is_not_finite_is_skipped_and_shown(tmp_path):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), on_nonfinite="skip")
    before = []
    keep = {"on_step_begin": lambda *a, model, **k: before.append(adapter(model))}
    trained.add_callback(type("Keep", (TrainerCallback,), keep)())
    Poison(3).watch(trained)
    trained.train()
    same(before[3], before[4])
    with pytest.raises(AssertionError):
        same(before[4], before[5])
    logged = [entry["loss_b"] for entry in trained.state.log_history if "loss_b" in entry]
    assert [math.isnan(loss) for loss in logged] == [False, True, False]
    losses = [row["loss"] for row in table(tmp_path / "run", "steps") if row["task"] == "b"]
    assert [math.isnan(loss) for loss in losses] == [False, False, False, True, False, False]
    assert read_status(tmp_path / "run").state == "finished"
    assert [(row["step"], row["event"]) for row in table(tmp_path / "run", "events")] == [
        (3, "nonfinite"), (3, "skipped"),
    ]  # fmt: skip


def test_a_second_training_needs_a_record_of_its_own(tmp_path):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"))
    trained.train()
    with pytest.raises(OrthoLoraError, match="run holds a training already: give another one a directory of its own"):
        trained.train()
    assert read_status(tmp_path / "run").state == "finished"
    trained.recorder = None
    trained.train()
    with pytest.raises(OrthoLoraError, match="run 'run' exists"):
        Recorder(tmp_path / "run")


def test_the_model_is_watched_during_training_only(tmp_path):
    trained = trainer(tmp_path)
    hooks = lambda: sum(len(part._forward_hooks) for part in trained.model.modules())  # noqa: E731
    assert hooks() == 0
    counts = []
    trained.add_callback(type("Count", (TrainerCallback,), {"on_step_end": lambda *a, **k: counts.append(hooks())})())
    trained.train()
    assert counts == [8] * 6
    assert hooks() == 0


def test_every_example_of_every_task_is_drawn_and_a_short_one_starts_again(tmp_path):
    trained = trainer(tmp_path, of_args={"num_train_epochs": 1, "max_steps": -1})
    loader = trained.get_train_dataloader()
    assert len(loader) == 4
    drawn = {task: [] for task in datasets()}
    for batch in loader:
        assert list(batch) == ["a", "b", "c"]
        for task, of in batch.items():
            assert set(of) == {"input_ids", "labels"}
            drawn[task] += [tuple(row) for row in of["input_ids"].tolist()]
    for task, texts in datasets().items():
        counts = [drawn[task].count(tuple(row)) for row in texts.tokens.tolist()]
        assert sum(counts) == 16
        assert set(counts) <= {16 // len(texts), -(-16 // len(texts))}


def test_tasks_with_the_same_texts_do_not_meet_in_one_batch_by_their_place():
    texts = Texts(1000, 0)
    joined = TaskDataset({"a": texts, "b": texts}, seed=0)
    together = sum(joined[k]["a"]["input_ids"].equal(joined[k]["b"]["input_ids"]) for k in range(1000))
    assert together < 10
    assert sorted(joined.place("b", k) for k in range(1000)) == list(range(1000))
    in_order = TaskDataset({"a": texts, "b": Texts(7, 1)}, seed=None)
    assert [in_order.place("a", 999), in_order.place("b", 999)] == [999, 999 % 7]


def test_workers_draw_what_one_process_draws(tmp_path):
    trained = [trainer(tmp_path, of_args={"dataloader_num_workers": workers, "max_steps": 2}) for workers in (0, 2)]
    for one in trained:
        one.train()
    same(*(adapter(one.model) for one in trained))


def test_datasets_of_the_library_of_that_name(tmp_path):
    from datasets import Dataset as Table

    tables = {
        task: Table.from_dict({"input_ids": of.tokens.tolist(), "labels": of.labels.tolist(), "text": ["x"] * len(of)})
        for task, of in datasets().items()
    }
    ours = OrthoLoRATrainer(
        model=llama(), args=arguments(tmp_path), train_dataset=tables, eval_dataset={"a": tables["a"]}
    )
    ours.train()
    plain = trainer(tmp_path)
    plain.train()
    same(adapter(ours.model), adapter(plain.model))
    assert ours.evaluate()["eval_a_loss"] > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(tmp_path, reentrant):
    plain = trainer(tmp_path)
    plain.train()
    of_args = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
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
    assert trained.state.log_history[0]["loss_a"] > 0


def test_a_model_made_late_is_the_one_that_is_watched(tmp_path):
    args = arguments(tmp_path, **SEQUENTIAL)  # making the model draws random numbers, and the sampler would too
    made = OrthoLoRATrainer(model_init=lambda: llama(), args=args, data_collator=collate, train_dataset=datasets())
    made.train()
    plain = trainer(tmp_path, of_args=SEQUENTIAL)
    plain.train()
    same(adapter(made.model), adapter(plain.model))


def test_tokens_and_operations_of_all_tasks_are_counted(tmp_path):
    trained = trainer(tmp_path, of_args={"include_num_input_tokens_seen": "all"})
    trained.train()
    assert trained.state.num_input_tokens_seen == 6 * 3 * 4 * LENGTH
    assert trained.state.total_flos > 0


class Stream(IterableDataset):
    def __iter__(self):
        yield from Texts(3, 0)


WRONG_DATA = {
    "one dataset": (
        Texts(4, 0),
        r"train_dataset: Texts given, expected a dict of datasets by task.*\{\"task\": dataset",
    ),
    "none": (None, "train_dataset: NoneType given, expected a dict"),
    "an empty dict": ({}, "train_dataset: an empty dict given, expected datasets by task"),
    "no examples": ({"a": Texts(4, 0), "b": Texts(0, 0)}, "task 'b' has no examples, expected at least one"),
    "a stream": ({"a": Stream()}, "task 'a' is a Stream, expected a dataset with a length.*stream"),
    "a task without a name": ({0: Texts(4, 0)}, "task 0 given, expected a name"),
}


@pytest.mark.parametrize("name", WRONG_DATA)
def test_wrong_datasets(tmp_path, name):
    data, message = WRONG_DATA[name]
    with pytest.raises(OrthoLoraError, match=message):
        OrthoLoRATrainer(model=llama(), args=arguments(tmp_path), data_collator=collate, train_dataset=data)


WRONG_SETTINGS = {
    "task": ({"loss_weights": {"d": 1.0}}, "task 'd': expected one of a, b, c"),
    "method": ({"method": "mtl"}, "method 'mtl': expected one of joint"),
    "sampling": (
        {"of_args": {"train_sampling_strategy": "group_by_length"}},
        "train_sampling_strategy='group_by_length'.*use 'random' or 'sequential'",
    ),
    "optimizer": (
        {"of_args": {"optim": "galore_adamw_layerwise", "optim_target_modules": ["q_proj"]}},
        "optim='galore_adamw_layerwise' updates weights during the backward pass",
    ),
    "sharding": ({"of_args": {"fsdp": True}}, "FSDP splits gradients over processes"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_wrong_settings(tmp_path, name):
    given, message = WRONG_SETTINGS[name]
    with pytest.raises(OrthoLoraError, match=message):
        trainer(tmp_path, **given)


def test_a_model_without_lora_is_refused_before_training(tmp_path):
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found none"):
        trainer(tmp_path, llama().get_base_model().__class__(llama().config))


def test_sharding_that_the_launcher_chose_is_refused(tmp_path, monkeypatch):
    for name, word in (("is_deepspeed_enabled", "DeepSpeed"), ("is_fsdp_enabled", "FSDP")):
        made = trainer(tmp_path)
        monkeypatch.setattr(made, name, True)
        with pytest.raises(OrthoLoraError, match=f"{word} splits gradients"):
            made._refuse_launched()


def test_a_dict_survives_json(tmp_path):
    """Trainer writes its state, with the tasks' losses, as JSON."""
    trained = trainer(tmp_path, of_args={"save_strategy": "steps", "save_steps": 6})
    trained.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss_a"] == trained.state.log_history[0]["loss_a"]


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


@pytest.mark.parametrize("size", [4, 1])
def test_half_products_are_those_of_halves_by_tokens(tmp_path, size):
    """Against autograd on each half alone, also where a micro-batch holds one text of a task."""
    tasks = datasets()
    for place, texts in enumerate(tasks.values()):
        for row in range(len(texts)):
            texts.labels[row, : (row + place) % (LENGTH - 2)] = -100
    recorder = Recorder(tmp_path / "run")
    of_args = SEQUENTIAL | {
        "per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 1,
    }  # fmt: skip
    trainer(tmp_path, train=tasks, method="joint", of_args=of_args, recorder=recorder).train()
    norms = pq.read_table(part_files(tmp_path / "run", "norms")).to_pandas()
    model = llama()
    model.train()
    matrices = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    halves = [0, 0, 1, 1] if size == 4 else [0, 1, 0, 1]
    for task, texts in tasks.items():
        found = norms[norms["task"] == task].set_index(["layer", "module", "branch"])["half_product"]
        means = []
        for half in (0, 1):
            rows = [row for row in range(4) if halves[row] == half]
            loss = model(input_ids=texts.tokens[rows], labels=texts.labels[rows]).loss  # a mean over the half's tokens
            means.append(torch.autograd.grad(loss, [p for _, p in matrices]))
        for (name, _), first, second in zip(matrices, *means, strict=True):
            layer, module, branch = name.split(".")[4], name.split(".")[6], name.split("lora_")[1][0]
            assert found[int(layer), module, branch] == pytest.approx((first * second).sum().item(), rel=1e-3, abs=1e-9)
