"""From a configuration to tasks."""

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from ortho_lora.config import Config
from ortho_lora.tasks import load_tasks


@pytest.fixture
def films(tmp_path):
    rows = {"text": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    pd.DataFrame(rows).to_csv(tmp_path / "films.csv", index=False)
    return {"name": "films", "path": str(tmp_path / "films.csv"), "text": "text", "label": "label"}


def test_every_kind_of_task_in_the_order_given(tmp_path, films):
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        table = pa.table({"sentence": ["one", "two"], "label": [0, 1]})
        parquet.write_table(table, tmp_path / "sst2" / f"{split}-00000-of-00001.parquet")
    config = Config(tasks=["films@1", f"hf:{tmp_path}/sst2", films, "news"])
    tasks = load_tasks(config.tasks, config.seed)
    assert [task.name for task in tasks] == ["films-flip1", "sst2", "films", "news"]
    twin, original = tasks[0], tasks[2]
    assert (twin.twin_of, twin.shares_head) == ("films", True)
    assert (twin.train.labels == 1 - original.train.labels).all()


def test_the_seed_reaches_the_dial(films):
    twins = [load_tasks(Config(tasks=[films, "films@0.5+head"]).tasks, seed)[1] for seed in (0, 0, 1)]
    assert (twins[0].train.labels == twins[1].train.labels).all()
    assert (twins[0].train.labels != twins[2].train.labels).any()
    assert not twins[0].shares_head


def test_a_twin_sets_apart_what_its_original_does(films):
    original, twin = load_tasks(Config(tasks=[films, "films@1"]).tasks, 0, 0.5)
    for split in ("validation", "selection"):
        assert twin.evaluation[split].texts == original.evaluation[split].texts
        assert (twin.evaluation[split].labels == 1 - original.evaluation[split].labels).all()
