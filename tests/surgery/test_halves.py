"""Two tasks that are one and the same have a corrected cosine of 1, however their texts are laid out."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import VOCABULARY, with_lora
from torch import nn

from ortho_lora import OrthoLoRA, OrthoLoraError
from ortho_lora.surgery.halves import rows_of, rows_of_one

LONGEST = 9
STEPS = 240


class Scores(nn.Module):
    """Tokens [N, L] to a score each; `flat`: the adapted layer sees all tokens as rows."""

    def __init__(self, flat=False):
        super().__init__()
        self.flat = flat
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.layer = nn.Linear(6, 6)

    def forward(self, tokens):
        states = self.embedding(tokens) + 1  # a common direction: signal
        seen = self.layer(states.flatten(0, 1)).view_as(states) if self.flat else self.layer(states)
        return seen.tanh().sum(-1)


def texts(count, generator):
    """Tokens and which of them count: lengths differ much, and tokens of one text are alike."""
    kind = torch.randint(1, VOCABULARY - 4, (count, 1), generator=generator)
    tokens = kind + torch.randint(0, 4, (count, LONGEST), generator=generator)
    lengths = torch.randint(1, LONGEST + 1, (count,), generator=generator)
    return tokens, torch.arange(LONGEST) < lengths[:, None]


def of_tokens(scores, counts):
    return ((scores - 4) ** 2 * counts).sum()


def mixed_rows(surgeon, model, draw, weighted):
    """Mean over tokens; one pass for both."""
    (one, counts), (other, others) = draw(2), draw(2)
    every = torch.cat([counts, others]).sum(1).tolist()
    with surgeon.mixed_batch([0] * 2 + [1] * 2, weight_of_example=every if weighted else 1):
        first, second = model(torch.cat([one, other])).split(2)
        losses = {"a": of_tokens(first, counts) / counts.sum(), "b": of_tokens(second, others) / others.sum()}
        return surgeon.backward(losses)


def own_passes(surgeon, model, draw, weighted):
    """Mean over tokens; a pass each."""
    for task in "ab":
        tokens, counts = draw(2)
        loss = of_tokens(model(tokens), counts) / counts.sum()
        surgeon.backward_part(task, loss, weight=counts.sum(1) if weighted else [1] * 2)
    return surgeon.project()


def accumulated(surgeon, model, draw, weighted):
    """One text by eight micro-batches, each a mean over its own tokens."""
    for task in "ab":
        for _ in range(8):
            tokens, counts = draw(1)
            loss = of_tokens(model(tokens), counts) / counts.sum() / 8
            surgeon.backward_part(task, loss, weight=[1] if weighted else None)
    return surgeon.project()


def mixed_accumulated(surgeon, model, draw, weighted):
    """One text of each task by four micro-batches, each a mean over its own tokens; one pass for both."""
    for micro in range(4):
        (one, counts), (other, others) = draw(1), draw(1)
        with surgeon.mixed_batch([0, 1], weight_of_example=1 if weighted else None):
            first, second = model(torch.cat([one, other])).split(1)
            losses = {"a": of_tokens(first, counts) / counts.sum(), "b": of_tokens(second, others) / others.sum()}
            measured = surgeon.backward({task: of / 4 for task, of in losses.items()}, accumulate=micro < 3)
    return measured


def whole_micro_batches(surgeon, model, draw, weighted):
    """Mean over all tokens of the step, four texts a micro-batch, whose layer sees tokens as rows."""
    for task in "ab":
        batches = [draw(4) for _ in range(4)]
        total = sum(counts.sum() for _, counts in batches)
        for tokens, counts in batches:
            loss = of_tokens(model(tokens), counts) / total
            surgeon.backward_part(task, loss, weight=float(counts.sum()) if weighted else [1] * 4)
    return surgeon.project()


def preferences(surgeon, model, draw, weighted):
    """Chosen answers, then the rejected ones: one example each."""
    for task in "ab":
        (chosen, counts), (rejected, others) = draw(40), draw(40)
        mask = torch.cat([counts, others])
        scores = (model(torch.cat([chosen, rejected // 8 + 1])) * mask).sum(1) / mask.sum(1)
        loss = nn.functional.softplus(scores[40:] - scores[:40] + 1).mean()
        surgeon.backward_part(task, loss, weight=[1] * 80, groups=[*range(40)] * 2 if weighted else None)
    return surgeon.project()


# How far the corrected cosine is off where halves are weighed, or cut, as if rows were all alike.
LAYOUTS = {
    mixed_rows: 0.1, own_passes: 0.1, accumulated: None, mixed_accumulated: None, whole_micro_batches: None,
    preferences: 0.5,
}  # fmt: skip


def corrected_cosine(layout, *, weighted):
    """Over both matrices, with its jackknife error over 24 groups of steps; NaN where nothing is halved."""
    torch.manual_seed(1)
    model = with_lora(Scores(flat=layout is whole_micro_batches), ["layer"])
    surgeon = OrthoLoRA(model, ["a", "b"], "joint")
    generator = torch.Generator().manual_seed(2)
    sums = []
    for _ in range(STEPS):
        measured = layout(surgeon, model, lambda count: texts(count, generator), weighted)
        model.zero_grad()
        sums.append([measured.gram[:, 0, 1].sum(), *measured.half_products.sum(0)])
    groups = np.array(sums).reshape(24, -1, 3).sum(1)

    def cosine(product, first, second):
        return product / np.sqrt(first * second)

    left_out = np.array([cosine(*(groups.sum(0) - one)) for one in groups])
    return cosine(*groups.sum(0)), np.sqrt(23 / 24 * ((left_out - left_out.mean()) ** 2).sum())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_task_agrees_with_itself(layout):
    cosine, error = corrected_cosine(layout, weighted=True)
    assert error < 0.06
    assert abs(cosine - 1) < 3 * error


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_it_would_not_if_examples_were_taken_as_they_come(layout):
    cosine, error = corrected_cosine(layout, weighted=False)
    off = LAYOUTS[layout]
    if off is None:
        assert math.isnan(cosine)
    else:
        assert abs(cosine - 1) > max(off, 4 * error)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=20), st.integers(0, 7))
def test_no_group_is_split_and_halves_differ_by_one_group(examples, turns):
    tasks, groups = [task for task, _ in examples], [group for _, group in examples]
    first = [turns >> task & 1 for task in range(3)]
    rows = rows_of(tasks, 3, groups=groups, weights=1, first=first)
    assert [part // 2 for part in rows.parts] == tasks
    for task in range(3):
        halves = {}
        for of, group, part in zip(tasks, groups, rows.parts, strict=True):
            if of == task:
                halves.setdefault(group, set()).add(part % 2)
        assert all(len(of_group) == 1 for of_group in halves.values())
        count = [sum(of_group == {half} for of_group in halves.values()) for half in (0, 1)]
        assert abs(count[0] - count[1]) <= 1
        if len(halves) == 1:
            assert count[first[task]] == 1  # a single one goes where it is the turn


def test_weights_may_be_given_in_any_form():
    assert rows_of([0, 0], 1, weights=torch.tensor([2, 3])).weight_of_part == [2, 3]
    assert rows_of([0, 0], 1, weights=2.5).weight_of_part == [2.5, 2.5]
    assert rows_of_one(1, 2, weights=torch.tensor(4), first=1) == rows_of_one(1, 2, weights=4, half=1)
    assert rows_of_one(0, 1, weights=(1, 2, 3), half=1).parts == (1, 1, 1)
    assert all(map(math.isnan, rows_of([0, 0], 1).weight_of_part))


@pytest.mark.parametrize("weights", [[1, 2, 3], [1, -1], [1, math.nan], [1, math.inf], ["1", "2"]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(
        OrthoLoraError, match=r"weights of examples: expected one number, or one for each of 2 examples"
    ):
        rows_of([0, 1], 2, weights=weights)


def test_groups_of_another_length_are_refused():
    with pytest.raises(OrthoLoraError, match="group_of_example: expected a group for each of 2 examples, found 3"):
        rows_of([0, 1], 2, weights=1, groups=[1, 2, 3])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=12))
def test_runs_hold_each_token_once_and_of_its_own_part(documents):
    tasks, lengths = zip(*documents, strict=True)
    rows = rows_of(tasks, 3, lengths=lengths)
    expected = [part for part, length in zip(rows.parts, lengths, strict=True) for _ in range(length)]
    found = [None] * len(expected)
    for part, tokens in rows.runs:
        assert found[tokens] == [None] * (tokens.stop - tokens.start)
        found[tokens] = [part] * (tokens.stop - tokens.start)
    assert found == expected
    assert all(one[0] != other[0] for one, other in pairwise(rows.runs))  # neighbours of a part are one run


@pytest.mark.parametrize("lengths", [[3], [3, 0], [3, 1.5]])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(OrthoLoraError, match=r"length_of_example: expected a number of tokens above 0 for each of 2"):
        rows_of([0, 1], 2, lengths=lengths)
