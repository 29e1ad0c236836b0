"""The split: a function of the text alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.tasks.data import Split, hash_fraction, hold_out, is_validation, normalise

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
