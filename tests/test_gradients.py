import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import parameters, tiny_bert
from torch import nn

from ortho_lora import gradients
from ortho_lora.adapters import blocks
from ortho_lora.errors import OrthoLoraError
from ortho_lora.gradients import apply_weights, fused, halves, sequential


class Setup:
    """Tasks of different sizes with padded texts, on one encoder with a head for each."""

    def __init__(self, sizes, seed=0, **lora):
        self.encoder = tiny_bert(seed, **lora)
        self.blocks = blocks(self.encoder, "default")
        self.sizes = sizes
        generator = torch.Generator().manual_seed(seed)
        lengths = [2 + int(n) for n in torch.randint(0, 7, (sum(sizes),), generator=generator)]
        self.tokens = torch.randint(1, 50, (sum(sizes), max(lengths)), generator=generator)
        self.mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(-1)).long()
        self.labels = torch.randint(0, 3, (sum(sizes),), generator=generator)
        self.heads = nn.ModuleList(nn.Linear(16, 3).double() for _ in sizes)

    def rows(self, task):
        return range(sum(self.sizes[:task]), sum(self.sizes[: task + 1]))

    def loss(self, task, rows, pad_to=None):
        length = pad_to or int(self.mask[rows].sum(1).max())
        states = self.encoder(self.tokens[rows, :length], self.mask[rows, :length]).last_hidden_state
        weight = self.mask[rows, :length].unsqueeze(-1)
        pooled = (states * weight).sum(1) / weight.sum(1)
        return nn.functional.cross_entropy(self.heads[task](pooled), self.labels[rows])

    def fused(self):
        def backward():
            states = self.encoder(self.tokens, self.mask).last_hidden_state
            weight = self.mask.unsqueeze(-1)
            pooled = (states * weight).sum(1) / weight.sum(1)
            losses = [
                nn.functional.cross_entropy(
                    self.heads[task](pooled[list(self.rows(task))]), self.labels[list(self.rows(task))]
                )
                for task in range(len(self.sizes))
            ]
            torch.stack(losses).sum().backward()

        return fused(self.blocks, self.sizes, backward)

    def sequential(self):
        def backward(task, rows, share):
            (share * self.loss(task, list(self.rows(task))[rows])).backward()

        return sequential(self.blocks, self.sizes, backward)

    def autograd(self, task, rows=None):
        chosen = list(self.rows(task)) if rows is None else list(self.rows(task))[rows]
        return torch.autograd.grad(self.loss(task, chosen), parameters(self.blocks))

    def joint(self):
        self.zero()
        sum(self.loss(task, list(self.rows(task))) for task in range(len(self.sizes))).backward()
        return [p.grad.clone() for p in [*parameters(self.blocks), *self.heads.parameters()]]

    def zero(self):
        self.encoder.zero_grad()
        self.heads.zero_grad()

    def grads(self):
        return [p.grad.clone() for p in [*parameters(self.blocks), *self.heads.parameters()]]


MODES = ["fused", "sequential"]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_gradients_equal_autograd_of_each_task(mode, sizes, seed):
    setup = Setup(sizes, seed)
    found = getattr(setup, mode)()
    for task in range(len(sizes)):
        for gradient, expected in zip(found.blocks, setup.autograd(task), strict=True):
            torch.testing.assert_close(gradient[task], expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 100))
def test_half_products_are_products_of_the_halves_own_gradients(mode, sizes, seed):
    setup = Setup(sizes, seed)
    found = getattr(setup, mode)().half_products
    for task, size in enumerate(sizes):
        if size == 1:
            assert found[:, task].isnan().all()
            continue
        first, _ = halves(size)
        a, b = setup.autograd(task, slice(0, first)), setup.autograd(task, slice(first, size))
        expected = torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)])
        torch.testing.assert_close(found[:, task], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_grad_is_that_of_plain_joint_training(mode):
    setup = Setup([4, 3, 4])
    expected = setup.joint()
    setup.zero()
    getattr(setup, mode)()
    for gradient, plain in zip(setup.grads(), expected, strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-9, atol=1e-12)


def test_fused_leaves_grad_bit_for_bit_as_it_is_without_hooks(monkeypatch):
    setup = Setup([4, 4])
    setup.fused()
    recorded = setup.grads()
    setup.zero()
    monkeypatch.setattr(gradients.SegmentGradients, "_forward", lambda *_: None)
    setup.fused()
    assert all(a.equal(b) for a, b in zip(recorded, setup.grads(), strict=True))


def test_weights_make_the_update():
    setup = Setup([3, 3])
    found = setup.fused()
    weights = torch.randn(len(setup.blocks), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apply_weights(setup.blocks, found, weights)
    first, second = setup.autograd(0), setup.autograd(1)
    for index, block in enumerate(setup.blocks):
        expected = weights[index, 0] * first[index] + weights[index, 1] * second[index]
        torch.testing.assert_close(block.parameter.grad, expected, rtol=1e-6, atol=1e-10)


def test_gradient_of_a_is_exactly_zero_while_b_is_zero():
    setup = Setup([4, 4])
    for block in setup.blocks:
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    for gradient, block in zip(setup.fused().blocks, setup.blocks, strict=True):
        assert (gradient.abs().max() == 0).item() == (block.branch == "A")


@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"use_dora": True}])
def test_sequential_works_for_variants_of_lora(lora):
    setup = Setup([3, 2], **lora)
    found = setup.sequential()
    for task in range(2):
        for gradient, expected in zip(found.blocks, setup.autograd(task), strict=True):
            torch.testing.assert_close(gradient[task], expected, rtol=1e-6, atol=1e-10)
    assert setup.blocks[0].plain == ("use_dora" not in lora)


def test_fused_refuses_layers_that_mix_examples():
    linear = nn.Linear(4, 2, bias=False)
    setup = Setup([2])
    block = type(setup.blocks[0])(0, "x", "A", "x", linear, True)
    with pytest.raises(OrthoLoraError, match=r"received 10 rows for 4 examples.*use gradient_mode=sequential"):
        fused([block], [2, 2], lambda: linear(torch.randn(10, 4)).sum().backward())
