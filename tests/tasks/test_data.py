"""The split: a function of the text alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Split, TaskData, hash_fraction, hold_out, is_validation, normalise, with_selection

texts = st.lists(st.text(min_size=1), min_size=1, max_size=30)


@given(st.text())
def test_case_and_white_space_make_no_new_example(text):
    assert normalise(f"  {text}\n\t") == normalise(text)
    assert is_validation(f" {text}\n") == is_validation(text)
    assert normalise("One  Two\n") == "one two"


@given(texts)
def test_no_text_is_in_both_splits(rows):
    train, validation = hold_out(Split(rows, np.arange(len(rows))))
    assert not set(train.keys) & set(validation.keys)
    assert sorted([*train.labels, *validation.labels]) == list(range(len(rows)))


@given(texts, st.text(min_size=1))
def test_adding_a_row_moves_no_other(rows, extra):
    train, _ = hold_out(Split(rows, np.arange(len(rows))))
    after, _ = hold_out(Split([extra, *rows], np.arange(-1, len(rows))))
    assert list(train.labels) == [label for label in after.labels if label >= 0]


@given(st.text(), st.text(min_size=1))
def test_pairs_are_told_apart_by_both_texts(first, second):
    split = Split([first, first], np.zeros(2, dtype=np.int64), [f"{second}a", f"{second}b"])
    assert len(set(split.keys)) == 2


def test_the_share_is_a_fifth_and_purposes_are_independent():
    keys = [str(i) for i in range(20_000)]
    held = np.array([is_validation(key) for key in keys])
    assert abs(held.mean() - 0.2) < 0.01
    other = np.array([hash_fraction(key, "dial 0") for key in keys])
    assert abs(other[held].mean() - 0.5) < 0.02
    assert 0 <= other.min() < other.max() < 1


def test_the_split_is_the_same_on_every_machine():
    assert hash_fraction("a text", "split") == 0.10425731651745318


def task(rows):
    split = Split(rows, np.arange(len(rows)))
    return TaskData("mine", "regression", (), split, {"validation": split, "other": split}, ("r2",))


def test_a_share_of_validation_is_set_apart_by_the_text_alone():
    whole = task([f"text {n}" for n in range(2000)] + [f" TEXT  {n}" for n in range(200)])
    assert with_selection(whole, 0.0) is whole
    parted = with_selection(whole, 0.3).evaluation
    assert list(parted) == ["validation", "other", "selection"]
    assert not set(parted["validation"].keys) & set(parted["selection"].keys)
    assert sorted([*parted["validation"].labels, *parted["selection"].labels]) == list(range(2200))
    assert abs(len(parted["selection"]) / 2200 - 0.3) < 0.03
    assert parted["other"] is whole.evaluation["other"]
    held = [is_validation(text) for text in parted["selection"].texts]
    assert abs(np.mean(held) - 0.2) < 0.05  # of a purpose of its own
    larger = with_selection(whole, 0.6).evaluation["selection"]
    assert set(parted["selection"].labels) < set(larger.labels)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(OrthoLoraError, match=f"selection_share: {share} of the 3 validation examples of 'mine' leaves"):
        with_selection(task(["one", "two", "three"]), share)
