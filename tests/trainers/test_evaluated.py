"""`OrthoLoRATrainer` evaluates each task by name, records it, and keeps the best model."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from texts import Texts, adapter, same, table, trainer
from transformers import EarlyStoppingCallback

from ortho_lora import Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status


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
