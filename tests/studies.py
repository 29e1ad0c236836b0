"""Studies without training: records of runs that never were, and a model so small that a run takes seconds."""

import json
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from ortho_lora.assets.archives import model_directory
from ortho_lora.training.config import Config, load_config


def record(run: Path, config: Config, state: str = "finished", message: str = "", **splits: float) -> None:
    """What a run leaves, its tasks with the same accuracy on each of the splits given, and twins with 0."""
    run.mkdir(parents=True, exist_ok=True)
    tasks = [
        {"name": task.name, "metrics": ["accuracy"], "twin_of": getattr(task, "twin_of", None)} for task in config.tasks
    ]
    identity = {
        "run_id": run.name, "created": 0, "method": config.label, "rule": "sum", "scope": "block", "seed": config.seed,
        "gradient_mode": "fused", "config": config.model_dump(mode="json"), "tasks": tasks, "versions": {},
        "command": [], "modules": [],
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(identity))
    metrics = {
        split: {task["name"]: {"accuracy": 0.0 if task["twin_of"] else value, "loss": 1.0} for task in tasks}
        for split, value in splits.items()
    }
    status = {
        "state": state, "step": config.steps, "total": config.steps, "pid": 2**22 - 1, "process_start_time": 0.0,
        "heartbeat": time.time(), "metrics": metrics, "message": message,
    }  # fmt: skip
    (run / "status.json").write_text(json.dumps(status))


class Ended:
    """A run whose process has ended."""

    def __init__(self, code):
        self.code = code

    def ended(self):
        return self.code

    def stop(self):
        pass

    def kill(self):
        pass


class Scripted:
    """In place of processes: each start of a run does what `script(config, attempt)` says, and returns its status."""

    def __init__(self, script):
        self.script = script
        self.started = []

    def start(self, folder, run_id):
        self.started.append(run_id)
        config = load_config(folder.settings(run_id))
        outcome = self.script(config, self.started.count(run_id))
        code, left = outcome if isinstance(outcome, tuple) else (0, outcome)
        folder.output(run_id).write_text(left if isinstance(left, str) else "")
        if isinstance(left, dict):
            record(folder.path / run_id, config, **left)
        return Ended(code)

    def adopt(self, folder, run_id):
        return None


def tiny_model(path: Path) -> str:
    """A directory that `model:` takes: two layers, 32 wide, random, and the same in every run of the tests."""
    tokenizer = AutoTokenizer.from_pretrained(str(model_directory("minilm")))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(str(path))
    tokenizer.save_pretrained(str(path))
    return str(path)


def tiny_tasks(path: Path) -> list[dict[str, str]]:
    """Two tasks on files."""
    path.mkdir(exist_ok=True)
    tasks = []
    for name, modulus in {"even": 2, "third": 3}.items():
        rows = [f"{name} word {number} {number % modulus},{int(number % modulus == 0)}" for number in range(300)]
        (path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
        tasks.append({"name": name, "path": str(path / f"{name}.csv"), "text": "text", "label": "label"})
    return tasks
