"""Sums that do not fit: sketches of them, which have no bias, a small error, and keep to their bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from ortho_lora import OrthoLoraError
from ortho_lora.record.products import across_groups
from ortho_lora.surgery.adamw import Metric
from ortho_lora.surgery.sums import BlockSums, Extent, Sums, widths


def held(sums: Sums) -> int:
    """Bytes of all that is kept."""
    places = [tensor for block in sums.blocks for tensor in (block._place, block.coordinates) if tensor is not None]
    kept = [*(tensor for block in sums.blocks for tensor in block.tensors), *places]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def filled(means: torch.Tensor, limit_bytes: int, seed: int = 0) -> Sums:
    """Of gradients [m, T, D], a batch each."""
    groups, tasks, size = means.shape
    sums = Sums([nn.Parameter(torch.zeros(size))], Extent(groups, tasks, 0), seed=seed, limit_bytes=limit_bytes)
    for group in range(groups):
        for task in range(tasks):
            sums.blocks[0].add(task, group, means[group, task])
            sums.batches[group, task] += 1
    return sums


def products(sums: Sums, metric: Metric | None = None) -> np.ndarray:
    """U, [T, T]."""
    has = np.ones(sums.batches.shape)
    return across_groups(*(of.numpy() for of in sums.products(metric)), (has, has), apart=False)[0].sum(0)


@pytest.mark.parametrize("limit", [10_000, 100_000, 1_000_000])
def test_sums_keep_to_their_bytes_and_large_blocks_are_sketched_first(limit):
    sizes = [1000, 10, 200, 5000]
    extent = Extent(8, 2, 1)
    if limit == 10_000:
        with pytest.raises(OrthoLoraError, match="raise it, or take fewer groups"):
            widths(sizes, extent, limit)
        return
    sums = Sums([nn.Parameter(torch.zeros(size)) for size in sizes], extent, limit_bytes=limit)
    assert held(sums) <= limit
    assert sums.exact == (limit == 1_000_000)
    if not sums.exact:
        assert sums.widths[1] is None
        assert sums.widths[3] is not None
        assert held(sums) > 0.9 * limit


@pytest.mark.parametrize("by", [None, "adamw"])
def test_products_of_sketches_have_no_bias(by):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 2, 400, generator=generator) * torch.rand(400, generator=generator) + 0.3

    def of(sums: Sums) -> np.ndarray:
        optimizer = torch.optim.AdamW(sums.parameters)
        optimizer.state[sums.parameters[0]] = {"exp_avg_sq": torch.linspace(1, 2, 400), "step": torch.tensor(10.0)}
        return products(sums, Metric(sums.parameters, optimizer, [1, 1]) if by else None)

    exact = filled(means, 10**9)
    assert exact.exact
    found = []
    for seed in range(300):
        sketched = filled(means, 16_000, seed)
        assert not sketched.exact
        found.append(of(sketched))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - of(exact)) < 4 * error).all()
    assert (error < 0.05 * np.abs(of(exact))).all()


def test_a_sketch_is_the_same_for_all_groups_and_tasks_and_linear():
    extent, generator = Extent(2, 2, 0), torch.Generator().manual_seed(0)
    block = BlockSums(nn.Parameter(torch.zeros(300)), extent, 64, generator)
    one, other = torch.randn(2, 300)
    block.add(0, 0, one)
    block.add(0, 0, other)
    block.add(1, 1, one + other)
    torch.testing.assert_close(block.sketch[0, 0], block.sketch[1, 1])
    torch.testing.assert_close(block.chosen[0, 0], block.chosen[1, 1])
    torch.testing.assert_close(block.chosen[0, 0], (one + other)[block.coordinates])


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_neither_tiny_nor_large_gradients_are_lost(scale):
    means = torch.randn(8, 2, 50, generator=torch.Generator().manual_seed(0)) + 0.5
    expected = products(filled(means, 10**9))
    np.testing.assert_allclose(products(filled(means * scale, 10**9)), expected * scale**2, rtol=1e-5)


def test_weights_of_losses_are_those_of_the_mixture_whose_second_moments_they_are():
    means = torch.randn(8, 2, 50, generator=torch.Generator().manual_seed(0)) + 0.5
    sums = filled(means, 10**9)
    weights = [1.0, 3.0]
    moment = sum(w**2 * means[:, t].var(0) * (1 - 1 / 8) for t, w in enumerate(weights))
    moment = moment + sum(w * means[:, t].mean(0) for t, w in enumerate(weights)) ** 2
    expected = products(filled(means / (moment.sqrt() + 1e-8).sqrt(), 10**9))
    np.testing.assert_allclose(products(sums, Metric(sums.parameters, None, weights)), expected, rtol=1e-4)
