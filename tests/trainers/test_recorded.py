"""The record that a training with `OrthoLoRATrainer` leaves, however it ends and goes on."""

import os
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from texts import LENGTH, OLD, SEQUENTIAL, adapter, datasets, llama, same, steps_of, table, trainer
from transformers import TrainerCallback

from ortho_lora import OrthoLoraError, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_run, read_status


def test_the_record_is_complete(tmp_path):
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), record_every=2, loss_weights={"c": 0.5})
    trained.train()
    info = read_run(tmp_path / "run")
    assert (info.task_names, info.method, info.seed) == (["a", "b", "c"], "ortho-lora", 42)
    assert [task.loss_weight for task in info.tasks] == [1, 1, 0.5]
    status = read_status(tmp_path / "run")
    assert (status.state, status.step, status.total, status.message) == ("finished", 6, 6, "")
    tables = {name: table(tmp_path / "run", name) for name in ("steps", "pairs", "norms")}
    assert [row["step"] for row in tables["steps"]] == [step for step in range(6) for _ in range(3)]
    rates = [row["learning_rate"] for row in tables["steps"][::3]]
    assert rates == pytest.approx([0.01 * (1 - step / 6) for step in range(6)])
    assert sorted(row["order"] for row in tables["steps"][:3]) == [0, 1, 2]
    blocks = 2 * 2 * 2  # layers, modules, branches
    for name, rows in (("pairs", 3), ("norms", 3)):
        assert [row["step"] for row in tables[name]] == [step for step in (0, 2, 4) for _ in range(blocks * rows)]
    a_loss = [row["loss"] for row in tables["steps"] if row["task"] == "a"]
    logged = [entry["loss/a"] for entry in trained.state.log_history if "loss/a" in entry]
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


def test_too_little_data_for_a_batch_is_refused_and_leaves_no_run(tmp_path):
    of_args = {"dataloader_drop_last": True, "per_device_train_batch_size": 20}
    trained = trainer(tmp_path / "out", recorder=Recorder(tmp_path / "run"), of_args=of_args)
    with pytest.raises(OrthoLoraError, match="longest task has 16 examples, too few for a batch of 20 .*drop_last"):
        trained.train()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(OLD, reason="no epoch can be left out of the loop of transformers 4")
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
        scale = 1.0
        if OLD:  # divides by the labels, of which the first of a row is no target
            labels = texts.labels[:4]
            scale = float(labels[:, 1:].ne(-100).sum() / labels.ne(-100).sum()) ** 2
        means = []
        for half in (0, 1):
            rows = [row for row in range(4) if halves[row] == half]
            loss = model(input_ids=texts.tokens[rows], labels=texts.labels[rows]).loss  # a mean over the half's tokens
            means.append(torch.autograd.grad(loss, [p for _, p in matrices]))
        for (name, _), first, second in zip(matrices, *means, strict=True):
            layer, module, branch = name.split(".")[4], name.split(".")[6], name.split("lora_")[1][0]
            assert found[int(layer), module, branch] == pytest.approx(
                scale * (first * second).sum().item(), rel=1e-3, abs=1e-9
            )
