"""How a batch is split into passes, and that the split changes nothing but the cost."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ortho_lora.tasks.data import Split, TaskData
from ortho_lora.training.batches import Batch, split_by_length
from ortho_lora.training.model import load_encoder, pad, tokenize

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def cost(passes, lengths, tokens_of_a_pass):
    return sum(len(some) * max(lengths[index] for index in some) + tokens_of_a_pass for some in passes)


@given(LENGTHS, st.integers(0, 40))
def test_no_split_of_the_sorted_texts_costs_less(lengths, tokens_of_a_pass):
    passes = split_by_length(lengths, tokens_of_a_pass)
    assert sorted(index for some in passes for index in some) == list(range(len(lengths)))
    ordered = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    least = min(
        cost([ordered[a:b] for a, b in pairwise(cuts)], lengths, tokens_of_a_pass)
        for choice in range(2 ** (len(lengths) - 1))
        for cuts in [[0, *(n + 1 for n in range(len(lengths) - 1) if choice >> n & 1), len(lengths)]]
    )
    assert cost(passes, lengths, tokens_of_a_pass) == least


@given(LENGTHS)
def test_a_dear_pass_is_made_once_and_a_free_one_for_each_length(lengths):
    assert len(split_by_length(lengths, 10**6)) == 1
    assert len(split_by_length(lengths, 0)) == len(set(lengths))


@pytest.fixture(scope="module")
def batch():
    _, tokenizer = load_encoder("minilm")
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

    def task(name, size):
        split = Split([" ".join(words[: 1 + (3 * row + size) % 10]) for row in range(size)], np.arange(size) % 2)
        return TaskData(name, "classification", ("a", "b"), split, {}, ("accuracy",))

    tasks = [task("first", 7), task("second", 4)]
    return Batch(tasks, [[6, 0, 2, 5, 1], [3, 1, 0, 2]], tokenizer, 16, torch.device("cpu"))


def test_passes_hold_every_example_once_in_its_half(batch):
    passes = batch.passes(0)
    assert len(passes) > 2
    examples = [pair for some in passes for pair in zip(some.task_of_example, some.half_of_example, strict=True)]
    assert sorted(examples) == [(0, 0)] * 2 + [(0, 1)] * 3 + [(1, 0)] * 2 + [(1, 1)] * 2
    assert all(some.task_of_example == sorted(some.task_of_example) for some in passes)
    for some in passes:
        tokens = some.tokens()
        assert tokens["attention_mask"].all()  # texts of one length need no padding
        assert len(tokens["input_ids"]) == len(some.task_of_example)


def test_contributions_of_the_passes_add_up_to_the_tasks_losses(batch):
    torch.manual_seed(0)
    heads = [nn.Linear(1, 2), nn.Linear(1, 2)]

    def loss(task, states, labels):
        return nn.functional.cross_entropy(heads[task](states), labels)

    def of(passes):
        total = [0.0, 0.0]
        for some in passes:
            pooled = some.tokens()["attention_mask"].sum(1, keepdim=True).float()
            for task, contribution in some.losses(loss, pooled).items():
                total[task] += contribution.item()
        return total

    assert of(batch.passes(0)) == pytest.approx(of(batch.passes(10**6)), rel=1e-6)
    assert of([batch.part(0, 0, 2), batch.part(0, 2, 5), batch.part(1, 0, 4)]) == pytest.approx(of(batch.passes(0)))


def test_pairs_of_texts_are_padded_as_the_tokenizer_pads_them():
    _, tokenizer = load_encoder("minilm")
    texts, pairs = ["one two three", "one"], ["four", "five six seven eight"]
    found = pad(tokenizer, tokenize(tokenizer, texts, pairs, max_length=6), device=torch.device("cpu"))
    expected = tokenizer(texts, pairs, truncation=True, max_length=6, padding=True, return_tensors="pt")
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in expected.items()}
