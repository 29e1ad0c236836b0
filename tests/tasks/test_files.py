"""The user's own files: what they become, and what is said of those that cannot be used."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.files import Columns, Table, load_file, task_from_tables

FORMATS = ["csv", "tsv", "jsonl", "parquet"]


def write(path, columns):
    table = pd.DataFrame(columns)
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".tsv":
            table.to_csv(path, sep="\t", index=False)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(path)
    return path


def columns(labels, n=40):
    return {"text": [f"text {i}" for i in range(n)], "label": [labels[i % len(labels)] for i in range(n)]}


def refusal(path, text="text", label="label", **settings):
    with pytest.raises(OrthoLoraError) as caught:
        load_file("own", path, text, label, **settings)
    return str(caught.value)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["no", "yes", "maybe"], ("maybe", "no", "yes")),
        ([10, 9, -1], ("-1", "9", "10")),
        ([True, False], ("False", "True")),
    ],
)
def test_classes_are_sorted_and_the_same_in_every_format(tmp_path, ending, labels, classes):
    task = load_file("own", write(tmp_path / f"rows.{ending}", columns(labels)), "text", "label")
    assert (task.name, task.kind, task.classes, task.outputs) == ("own", "classification", classes, len(classes))
    assert task.train.labels.dtype == np.int64
    number = int(task.train.texts[0].split()[1])
    assert classes[task.train.labels[0]] == str(labels[number % len(labels)])
    assert len(task.train) + len(task.evaluation["validation"]) == 40


@pytest.mark.parametrize("ending", FORMATS)
def test_numbers_that_are_not_whole_are_targets(tmp_path, ending):
    task = load_file("own", write(tmp_path / f"rows.{ending}", columns([0.5, 1.25, 3.0])), "text", "label")
    assert (task.kind, task.classes, task.outputs) == ("regression", (), 1)
    assert task.train.labels.dtype == np.float32
    assert set(task.train.labels.tolist()) == {0.5, 1.25, 3.0}


def test_many_whole_numbers_are_targets_unless_said_otherwise(tmp_path):
    path = write(tmp_path / "rows.csv", columns(range(60), n=120))
    assert load_file("own", path, "text", "label").kind == "regression"
    assert len(load_file("own", path, "text", "label", kind="classification").classes) == 60
    few = write(tmp_path / "few.csv", columns([1, 2, 3]))
    assert load_file("own", few, "text", "label", kind="regression").classes == ()


@pytest.mark.parametrize("ending", FORMATS)
def test_texts_are_taken_as_they_stand(tmp_path, ending):
    rows = columns(["NA", "null"])
    rows["text"][:3] = ["NA", "null", "007"]
    task = load_file("own", write(tmp_path / f"rows.{ending}", rows), "text", "label")
    assert {"NA", "null", "007"} <= {*task.train.texts, *task.evaluation["validation"].texts}
    assert task.classes == ("NA", "null")


def test_pairs(tmp_path):
    rows = columns(["a", "b"]) | {"second": [f"second {i}" for i in range(40)]}
    task = load_file("own", write(tmp_path / "rows.csv", rows), "text", "label", text_pair="second")
    assert task.train.text_pairs == [text.replace("text", "second") for text in task.train.texts]


def test_a_validation_file_is_used_as_it_is(tmp_path):
    path = write(tmp_path / "train.csv", columns(["a", "b", "c"]))
    held = write(tmp_path / "held.jsonl", columns(["c", "b"], n=5))
    task = load_file("own", path, "text", "label", validation_path=held)
    assert len(task.train) == 40
    assert task.evaluation["validation"].labels.tolist() == [2, 1, 2, 1, 2]


def test_given_splits_keep_their_repeated_rows(tmp_path):
    path = write(tmp_path / "rows.csv", {"text": ["one", "one", "two"], "label": ["a", "a", "b"]})
    task = load_file("own", path, "text", "label", validation_path=path)
    assert task.train.texts == task.evaluation["validation"].texts == ["one", "one", "two"]


@given(st.lists(st.tuples(st.sampled_from(["a", "A ", "b", "c"]), st.sampled_from(["x", "y"])), min_size=1))
def test_repeated_rows_count_once(extra):
    rows = pd.DataFrame([*[(f"text {i}", "xy"[i % 2]) for i in range(40)], *extra], columns=["text", "label"])
    task = task_from_tables("own", Table("rows", rows), {}, Columns("text", "label"))
    found = [*task.train.texts, *task.evaluation["validation"].texts]
    assert len(found) == 40 + len({(text.strip().lower(), label) for text, label in extra})
    assert not set(task.train.keys) & set(task.evaluation["validation"].keys)


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "rows.csv"
    assert refusal(path) == f"there is no file {path}: expected the path of a .csv, .tsv, .jsonl, .parquet file"


def test_an_unknown_ending(tmp_path):
    (tmp_path / "rows.xlsx").touch()
    assert "rows.xlsx from its ending: expected .csv, .tsv, .jsonl, .parquet" in refusal(tmp_path / "rows.xlsx")


@pytest.mark.parametrize("ending", FORMATS)
def test_content_that_cannot_be_read(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b'{"text": "\xff\n')
    assert refusal(path).startswith(f"cannot read {path} as {ending} in UTF-8: ")


def test_an_empty_file(tmp_path):
    (tmp_path / "rows.csv").touch()
    assert "rows.csv as csv in UTF-8: No columns" in refusal(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("text,label\n")
    assert "rows.csv has no rows: expected at least a few examples" in refusal(tmp_path / "rows.csv")


def test_surplus_fields(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na, with a comma,yes\nanother, too,no\n")
    assert "rows.csv has more fields in a row than the 2 of its header: quote them" in refusal(tmp_path / "rows.csv")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_missing_column_and_the_nearest(tmp_path, ending):
    path = write(tmp_path / f"rows.{ending}", columns(["a", "b"]))
    expected = f"{path} has no column 'labels': did you mean 'label'? it has 'text', 'label'"
    assert refusal(path, label="labels") == expected
    assert refusal(path, text="zzz") == f"{path} has no column 'zzz': it has 'text', 'label'"


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("column", ["text", "label"])
def test_empty_cells(tmp_path, ending, column):
    rows = columns(["a", "b"])
    rows[column][2] = None
    rows[column][5] = "  "
    message = refusal(write(tmp_path / f"rows.{ending}", rows))
    assert f"column '{column}' of " in message
    assert "is empty in 2 of 40 rows, first in data row 3: fill or remove them" in message


def test_a_text_column_without_text(tmp_path):
    rows = columns(["a", "b"]) | {"text": range(40)}
    assert "holds values like 0, expected text: name another column" in refusal(write(tmp_path / "r.parquet", rows))


def test_labels_that_are_no_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["1.5", "2", "three"]))
    message = refusal(path, kind="regression")
    assert message.startswith(f"column 'label' of {path} holds labels that are no finite numbers, such as 'three'")
    assert "such as '1e39'" in refusal(write(tmp_path / "big.csv", columns(["1.5", "1e39"])), kind="regression")


def test_words_that_are_no_classes(tmp_path):
    path = write(tmp_path / "rows.csv", columns([f"word {i}" for i in range(51)], n=51))
    assert "has 51 different labels, expected at most 50: name another column" in refusal(path)


def test_a_single_class(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["a"]))
    assert refusal(path) == f"every row of {path} has the label 'a': expected at least two classes"


def test_labels_that_training_never_sees(tmp_path):
    path = write(tmp_path / "train.csv", columns(["a", "b"]))
    held = write(tmp_path / "held.csv", columns(["a", "d"]))
    message = refusal(path, validation_path=held)
    assert f"column 'label' of {held} holds 'd', which is none of the training labels a, b" in message


def test_too_few_rows(tmp_path):
    path = write(tmp_path / "rows.csv", {"text": ["same", "Same "], "label": ["a", "b"]})  # on one side of any split
    assert f"{path} has too few rows: after removing repeated ones and holding out a part, none is" in refusal(path)
