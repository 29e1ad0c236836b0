"""Settings to begin with, apart from the defaults."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    about: str
    settings: dict[str, Any]


PRESETS = {
    "Quick demo": Preset(
        "Three real tasks, and a twin of one of them whose labels are flipped in 7 of 10 texts: one true conflict among"
        " tasks that merely differ. Under two minutes on two cores.",
        {
            "tasks": ["trec", "tweets", "spam", "spam@0.7"],
            "dropout": 0.0,  # so that the twin sees exactly what its original sees
            "steps": 40,
            "learning_rate": 2e-3,
            "snapshots": 1,
            "snapshot_batches": 32,
            "snapshot_held_out": 16,
            "eval_examples": 128,
        },
    ),
    "Paper": Preset(
        "The paper's settings as far as it states them: query and value, rank 8, alpha 16, dropout 0.1, AdamW at 5e-4"
        " with linear decay, 32 examples a task. Its model is RoBERTa-base and its tasks are others; steps are our"
        " choice.",
        {
            "tasks": ["trec", "tweets", "movies"],
            "target_modules": ["query", "value"],
            "rank": 8,
            "alpha": 16.0,
            "dropout": 0.1,
            "optimizer": "adamw",
            "learning_rate": 5e-4,
            "head_learning_rate": 5e-4,
            "schedule": "linear",
            "batch_size": 32,
            "steps": 600,
            "eval_every": 50,
        },
    ),
    "Own data": Preset(
        "Tasks from tables of your own: add each below, under *Your own data*. The settings are the defaults.",
        {"tasks": []},
    ),
}
FIRST = "Quick demo"
