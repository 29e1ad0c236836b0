"""The user's own files: what they become, and what is said of those that cannot be used."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_files import FORMATS, columns, lines, refusal, write

from ortho_lora.tasks.files import load_file
from ortho_lora.tasks.tables import Columns, Table, task_from_tables


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


def test_many_whole_numbers_may_be_classes_or_amounts(tmp_path):
    path = write(tmp_path / "rows.csv", columns(range(60), n=120))
    assert refusal(path) == (
        f"column 'label' of {path} has 60 different whole numbers, which may be classes or amounts: say"
        " kind: classification or kind: regression"
    )
    assert load_file("own", path, "text", "label", kind="regression").classes == ()
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
    assert refusal(path).startswith(f"cannot read {path} as {ending}")


def test_an_empty_file(tmp_path):
    (tmp_path / "rows.csv").touch()
    assert "rows.csv is empty: expected a header with the names of its columns" in refusal(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("text,label\n")
    assert "rows.csv has no rows: expected at least a few examples" in refusal(tmp_path / "rows.csv")
    (tmp_path / "rows.jsonl").touch()
    assert "rows.jsonl has no rows: expected at least a few examples" in refusal(tmp_path / "rows.jsonl")


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
    assert "is empty in 2 of 40 rows, first in data row 3: fill them, or leave such rows out with" in message


def test_a_text_column_without_text(tmp_path):
    rows = columns(["a", "b"]) | {"text": range(40)}
    assert "holds values like 0 (data row 1), expected text: name another column" in refusal(
        write(tmp_path / "r.parquet", rows)
    )


def test_labels_that_are_no_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["1.5", "2", "three"]))
    message = refusal(path, kind="regression")
    assert message.startswith(
        f"column 'label' of {path} holds labels that are no finite numbers, 'three' in data row 3"
    )


def test_words_that_are_no_classes(tmp_path):
    path = write(tmp_path / "rows.csv", columns([f"word {i}" for i in range(51)], n=51))
    assert "has 51 different labels, expected at most 50: name another column" in refusal(path)


def test_a_single_class(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["a"]))
    assert refusal(path) == f"column 'label' of {path} has the label 'a' in every row: expected at least two classes"


def test_labels_that_training_never_sees(tmp_path):
    path = write(tmp_path / "train.csv", columns(["a", "b"]))
    held = write(tmp_path / "held.csv", columns(["a", "d"]))
    message = refusal(path, validation_path=held)
    assert f"column 'label' of {held} holds 'd' in data row 2 (and 19 more rows), which is none of the" in message
    assert "leave such rows out with drop_labels: ['d']" in message
    task = load_file("own", path, "text", "label", validation_path=held, drop_labels=["d"])
    assert task.evaluation["validation"].texts == [f"text {i}" for i in range(0, 40, 2)]
    assert task.dropped == {"validation": {"label d": 20}}


def test_too_few_rows(tmp_path):
    path = write(tmp_path / "rows.csv", {"text": ["same", "Same "], "label": ["a", "b"]})  # on one side of any split
    assert f"{path} has too few rows: after removing repeated ones and holding out a part, none is" in refusal(path)


@pytest.mark.parametrize("value", [["a"], {"is": "a"}, pd.Timestamp("2020-01-01")])
def test_labels_that_are_not_one_value(tmp_path, value):
    pd.DataFrame({"text": ["one", "two"], "label": [value, value]}).to_parquet(tmp_path / "rows.parquet")
    message = refusal(tmp_path / "rows.parquet")
    assert "in data row 1: expected a word, a truth value or a number in each row; name another column" in message


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["0.5", "1", "nan"], "holds 'nan' in data row 3 (and 12 more rows) among numbers: correct it, leave such"),
        (["0.5", "1", "inf"], "holds 'inf' in data row 3 (and 12 more rows) among numbers: correct it, leave such"),
        (["0", "1", "-"], "rows out with drop_labels: ['-'], or say kind: classification if it is a class"),
    ],
)
def test_a_stray_word_among_numbers(tmp_path, labels, what):
    path = write(tmp_path / "rows.csv", columns(labels))
    assert what in refusal(path)
    task = load_file("own", path, "text", "label", drop_labels=[labels[2]])
    assert task.kind == ("regression" if "0.5" in labels else "classification")
    assert len(load_file("own", path, "text", "label", kind="classification").classes) == 3


def test_truth_values_among_others(tmp_path):
    path = lines(tmp_path / "rows.jsonl", '{"text": "a", "label": true}', '{"text": "b", "label": 1}')
    assert "mixes truth values with others, as 1 in data row 2: write all in one way" in refusal(path)


def test_whole_numbers_keep_all_their_digits(tmp_path):
    large = [2**60, 2**60 + 1, None]
    for ending in ("jsonl", "parquet"):
        rows = columns(large) | {"label": pd.array([large[i % 3] for i in range(40)], dtype="Int64")}
        path = write(tmp_path / f"rows.{ending}", rows)
        task = load_file("own", path, "text", "label", skip_empty=True)
        assert task.classes == (str(2**60), str(2**60 + 1))
        assert task.dropped == {"train": {"empty": 13}}


def test_labels_that_differ_in_white_space_are_one(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["very good", " very  good", "bad "]))
    assert load_file("own", path, "text", "label").classes == ("bad", "very good")


def test_rows_are_left_out_where_asked_and_counted(tmp_path):
    rows = columns(["a", "b", "?"]) | {"second": [f"second {i}" for i in range(40)]}
    rows["text"][3] = ""
    rows["second"][4] = None
    rows["label"][6] = " "
    rows["text"][39] = rows["text"][0]
    rows["second"][39] = rows["second"][0]
    path = write(tmp_path / "rows.csv", rows)
    task = load_file("own", path, "text", "label", text_pair="second", skip_empty=True, drop_labels=["?"])
    assert task.dropped == {"train": {"empty": 3, "label ?": 13, "repeated": 1}}
    assert len(task.train) + len(task.evaluation["validation"]) == 40 - 3 - 13 - 1
    assert task.classes == ("a", "b")


def test_labels_to_drop_must_occur(tmp_path):
    path = write(tmp_path / "rows.csv", columns(["a", "b"]))
    message = refusal(path, drop_labels=["-"])
    assert message == "drop_labels of 'own' names '-', which is the label of no row: it has 'a', 'b'"
    assert "has no row left: 20 label a, 20 label b of 40 were left out" in refusal(path, drop_labels=["a", "b"])


def test_metrics_are_those_asked_for_and_fit_the_labels(tmp_path):
    two, three = (write(tmp_path / f"{len(of)}.csv", columns(of)) for of in (["a", "b"], ["a", "b", "c"]))
    assert load_file("own", two, "text", "label").metrics == ("accuracy", "macro_f1")
    assert load_file("own", two, "text", "label", metrics=["matthews", "f1"]).metrics == ("matthews", "f1")
    assert refusal(three, metrics=["accuracy", "f1"]) == (
        "metrics of 'own' names 'f1', which does not fit labels that are 3 classes: expected some of accuracy,"
        " macro_f1, matthews"
    )
    assert "'r2', which does not fit labels that are 2 classes: " in refusal(two, metrics=["r2"])
    numbers = write(tmp_path / "numbers.csv", columns([0.5, 1.25, 2.75]))
    assert "'accuracy', which does not fit labels that are numbers: " in refusal(numbers, metrics=["accuracy"])


@pytest.mark.parametrize("scale", [1e7, 1e30])
def test_targets_out_of_reach(tmp_path, scale):
    path = write(tmp_path / "rows.csv", columns([0.5 * scale, 0.25 * scale]))
    assert "expected targets between -1000 and 1000, which training can reach from 0; give (value - mean) /" in refusal(
        path, kind="regression"
    )


def test_targets_that_do_not_differ(tmp_path):
    path = write(tmp_path / "rows.csv", columns([0.5]))
    assert refusal(path).endswith("has the target 0.5 in every row: nothing to learn")
    path = write(tmp_path / "rows.csv", columns([0.5, 0.50001]))
    assert "has targets with a standard deviation of 5e-06, expected at least 0.001" in refusal(path)


@pytest.mark.parametrize("held", [[0, 55.5], [3.5, 4.5]])
def test_targets_in_another_unit(tmp_path, held):
    path = write(tmp_path / "rows.csv", columns([0.25, 0.5, 1]))
    other = write(tmp_path / "held.csv", columns(held))
    expected = (
        f"column 'label' of {other} has targets from {held[0]} to {held[1]}, and those to train on are from 0.25 to 1"
    )
    assert expected in refusal(path, validation_path=other, kind="regression")
