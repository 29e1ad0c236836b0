"""From a configuration to tasks."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import RunInfo
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.config import Config
from ortho_lora.training.identity import identity


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


def test_what_was_left_out_stands_in_the_record(films):
    films |= {"label": "verdict", "drop_labels": ["-"], "skip_empty": True}
    verdicts = ["-", "", *(["good", "bad"] * 19)]
    pd.read_csv(films["path"]).assign(verdict=verdicts).to_csv(films["path"], index=False)
    config = Config(tasks=[films, "films@0.5"])
    tasks = load_tasks(config.tasks, config.seed)
    info = identity(
        config, tasks, [task.evaluation for task in tasks], [], run_id="it", gradient_mode="fused", command=[]
    )
    expected = {"train": {"label -": 1, "empty": 1}}
    assert [task.dropped for task in RunInfo.model_validate_json(info.model_dump_json()).tasks] == [expected] * 2
    assert Config.model_validate(info.config) == config


GLUE = Path(__file__).parents[3] / "shared" / "data" / "glue"


@pytest.mark.skipif(not GLUE.is_dir(), reason="the data are not part of the project")
def test_raw_files_of_glue_are_read_whole():
    tasks = [
        {
            "name": path.name.removesuffix(".train.csv"),
            "path": path,
            "validation_path": path.with_name(path.name.replace("train", "validation")),
            "text": "sentence" if "sentence," in (header := path.read_text().partition("\n")[0]) else "sentence1",
            "text_pair": "sentence2" if "sentence2" in header else None,
            "label": "label",
        }
        for path in sorted(GLUE.glob("*.train.csv"))
    ]
    mnli = next(task for task in tasks if task["name"] == "mnli")
    with pytest.raises(OrthoLoraError, match=r"'-' in data row \d+ \(and 19 more rows\), .* drop_labels: \['-'\]"):
        load_tasks(Config(tasks=[mnli]).tasks, 0)
    mnli["drop_labels"] = "-"
    loaded = load_tasks(Config(tasks=tasks).tasks, 0)
    assert {task.name: task.dropped for task in loaded if task.dropped} == {"mnli": {"validation": {"label -": 20}}}
    for given, task in zip(tasks, loaded, strict=True):  # pandas reads these files right
        rows = pd.read_csv(given["path"], keep_default_na=False, dtype=str)
        assert task.train.texts == rows[given["text"]].tolist()
        assert [task.classes[index] for index in task.train.labels] == rows["label"].tolist()
