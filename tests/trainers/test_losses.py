"""The loss of each label, against torch's of all places at once."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ortho_lora.trainers import losses

VOCABULARY = 7


@given(st.data(), st.booleans(), st.integers(1, 4), st.integers(1, 6))
def test_of_labels_with_prompts_and_padding(data, shifted, rows, length):
    tokens = st.one_of(st.just(-100), st.integers(0, VOCABULARY - 1))
    labels = torch.tensor(
        data.draw(st.lists(st.lists(tokens, min_size=length, max_size=length), min_size=rows, max_size=rows))
    )
    logits = torch.randn(rows, length, VOCABULARY, generator=torch.Generator().manual_seed(0))
    values, counts = losses.of_labels(SimpleNamespace(logits=logits), labels, shifted=shifted)
    asked, before = (labels[:, 1:], logits[:, :-1]) if shifted else (labels, logits)
    wanted = functional.cross_entropy(before.flatten(0, 1), asked.flatten(), reduction="none").view(asked.shape)
    place = int(shifted)
    torch.testing.assert_close(values[:, place:], wanted)
    assert torch.equal(counts[:, place:], asked != -100)
    assert not counts[:, :place].any()
    assert not values[:, :place].any()


def test_of_labels_needs_no_finite_logits_where_nothing_counts():
    logits = torch.zeros(1, 4, VOCABULARY)
    logits[:, [0, 3]] = torch.inf
    values, counts = losses.of_labels(SimpleNamespace(logits=logits), torch.tensor([[-100, 1, 2, -100]]), shifted=False)
    assert values[counts].isfinite().all()
