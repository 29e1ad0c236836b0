"""Data sets in the hub's layout, from local copies."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.hub import GLUE, load_hub
from ortho_lora.tasks.metrics import METRICS

NAMES = {"sst2": ["negative", "positive"], "mnli": ["entailment", "neutral", "contradiction"]}


def write_split(directory, split, columns, names=None, shards=1):
    """Parquet files as the hub keeps them, with the names of the labels in the schema's metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    features = {field.name: {"dtype": str(field.type), "_type": "Value"} for field in table.schema}
    if names:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    size = -(-len(table) // shards)
    for shard in range(shards):
        path = directory / f"{split}-{shard:05}-of-{shards:05}.parquet"
        parquet.write_table(table.slice(shard * size, size), path)


def glue_copy(root, task, shards=1):
    preset = GLUE[task]
    for split in ("train", *preset.evaluation, "test"):
        rows = range(7)
        columns = {preset.text: [f"{split} {i}" for i in rows]}
        if preset.text_pair:
            columns[preset.text_pair] = [f"{split} second {i}" for i in rows]
        names = None if preset.kind == "regression" else NAMES.get(task, ["no", "yes"])
        labels = [i / 2 for i in rows] if names is None else [i % len(names) for i in rows]
        columns["label"] = [-1] * 7 if split == "test" and names else labels
        columns["idx"] = list(rows)
        write_split(root / task, split, columns, names, shards)
    return str(root / task)


@pytest.mark.parametrize("task", GLUE)
def test_glue_needs_no_columns(tmp_path, task):
    data = load_hub("it", glue_copy(tmp_path, task))
    preset = GLUE[task]
    assert data.metrics == preset.metrics
    assert set(data.metrics) <= set(METRICS)
    assert data.kind == preset.kind
    assert len(data.train) == 7
    assert (data.train.text_pairs is None) == (preset.text_pair is None)
    assert set(data.evaluation) == ({"validation", "validation_mismatched"} if task == "mnli" else {"validation"})


def test_labels_have_the_data_sets_own_names_in_its_order(tmp_path):
    data = load_hub("it", glue_copy(tmp_path, "mnli"))
    assert data.classes == ("entailment", "neutral", "contradiction")
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.evaluation["validation"].texts[0] == "validation_matched 0"
    assert data.evaluation["validation_mismatched"].text_pairs[0] == "validation_mismatched second 0"


def test_a_regression_of_the_hub(tmp_path):
    data = load_hub("it", glue_copy(tmp_path, "stsb"))
    assert data.classes == ()
    assert data.train.labels.dtype == np.float32
    assert data.train.labels.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_shards_are_put_together_in_order(tmp_path):
    data = load_hub("it", glue_copy(tmp_path, "sst2", shards=3))
    assert data.train.texts == [f"train {i}" for i in range(7)]


def test_a_relative_path_and_a_data_folder(tmp_path, monkeypatch):
    directory = tmp_path / "glue" / "sst2"
    glue_copy(tmp_path / "glue", "sst2")
    monkeypatch.chdir(tmp_path)
    expected = load_hub("it", str(directory)).train.texts
    assert load_hub("it", "./glue/sst2").train.texts == expected
    assert load_hub("it", "glue/sst2").train.texts == expected
    files = list(directory.iterdir())
    (directory / "data").mkdir()
    for path in files:
        path.rename(directory / "data" / path.name)
    assert load_hub("it", "./glue/sst2").train.texts == expected


def test_without_the_names_of_labels_numbers_are_classes(tmp_path):
    rows = {"sentence": [f"text {i}" for i in range(4)], "label": [0, 1, 0, 1]}
    write_split(tmp_path / "sst2", "train", rows)
    write_split(tmp_path / "sst2", "validation", rows)
    assert load_hub("it", str(tmp_path / "sst2")).classes == ("0", "1")


def test_another_data_set_names_its_columns_and_holds_out_a_part(tmp_path):
    rows = {"review": [f"text {i}" for i in range(50)], "stars": [i % 3 for i in range(50)]}
    write_split(tmp_path / "films", "train", rows)
    write_split(tmp_path / "films", "test", rows)
    data = load_hub("it", str(tmp_path / "films"), text="review", label="stars")
    assert data.classes == ("0", "1", "2")
    assert 0 < len(data.evaluation["validation"]) < len(data.train) < 50


def refusal(*arguments, **settings):
    with pytest.raises(OrthoLoraError) as caught:
        load_hub("it", *arguments, **settings)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    assert "there is no directory" in refusal(str(tmp_path / "nothing"))
    directory = tmp_path / "films"
    directory.mkdir()
    assert "films has no split 'train': it has no Parquet files" in refusal(str(directory))
    rows = {"review": ["a", "b"], "stars": [0, 1]}
    write_split(directory, "train", rows)
    assert "say which one of review, stars is the text" in refusal(str(directory))
    assert "films (train) has no column 'label': it has 'review', 'stars'" in refusal(str(directory), text="review")
    expected = "films has no split 'dev': it has train"
    assert expected in refusal(str(directory), text="review", label="stars", validation_split="dev")
    (directory / "train-00000-of-00001.parquet").write_bytes(b"PAR1 but not really")
    assert "cannot read the Parquet files of" in refusal(str(directory), text="review")


def test_labels_that_are_withheld_are_refused(tmp_path):
    directory = glue_copy(tmp_path, "sst2")
    message = refusal(directory, validation_split="test")
    assert "column 'label' of " in message
    assert "sst2 (test) is empty in 7 of 7 rows" in message


def test_rows_are_left_out_where_asked(tmp_path):
    data = load_hub("it", glue_copy(tmp_path, "mnli"), drop_labels=["neutral"])
    assert data.classes == ("entailment", "contradiction")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.dropped["validation_mismatched"] == {"label neutral": 2}


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "need the package datasets: pip install datasets" in refusal(glue_copy(tmp_path, "sst2"))


def test_a_hub_out_of_reach_is_said_with_what_to_do(monkeypatch):
    import datasets

    def unreachable(path, *_configuration):
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = refusal("glue/sst2")
    assert "cannot get glue/sst2 from the Hugging Face hub (ConnectionError: Couldn't reach 'nyu-mll/glue'" in message
    assert "or give the path of a local copy, as in hf:./glue/sst2" in message
