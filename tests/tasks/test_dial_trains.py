"""What the dial does to the gradients of a real model on real texts."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ortho_lora.record.manifest import part_files
from ortho_lora.training.config import load_config
from ortho_lora.training.train import train

RUNS = {  # steps, and learning rate of the heads
    "movies@0": (4, 5e-3),
    "movies@0.5": (16, 5e-3),  # a mean over many
    "movies@1": (4, 5e-3),
    "movies@1+head": (16, 2e-2),  # the heads part ways before the run ends
}


@pytest.fixture(scope="module")
def cosine(tmp_path_factory):
    """Mean cosine of `movies` with a twin of it, by the twin, each pair in a run of its own."""
    means = {}
    for dial, (steps, head_rate) in RUNS.items():
        settings = {
            "tasks": ["movies", dial], "method": "joint", "steps": steps, "batch_size": 16, "dropout": 0.0,
            "max_length": 32, "eval_every": steps, "eval_examples": 16, "head_learning_rate": head_rate,
        }  # fmt: skip
        run = train(load_config(overrides=settings), tmp_path_factory.mktemp("runs"), "run")
        pairs = pd.concat([pq.read_table(part).to_pandas() for part in part_files(run, "pairs")])
        means[dial] = pairs[pairs["step"] >= steps // 4]["cos_before"].mean()
    return means


def test_under_one_head_the_cosine_is_what_the_dial_says(cosine):
    assert cosine["movies@0"] == pytest.approx(1, abs=1e-4)
    assert cosine["movies@0.5"] == pytest.approx(0, abs=0.25)
    assert cosine["movies@1"] < -0.9


def test_a_head_of_its_own_absorbs_the_flip(cosine):
    assert cosine["movies@1+head"] > 0.3
