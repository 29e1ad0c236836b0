"""What draws tell of a sketch's error is what sketches of other seeds show."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from analysis.conflict.snapshots import WHOLE, snapshot_matrix
from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.record.jackknife import effects
from ortho_lora.record.products import across_groups
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.surgery.sketched import DRAWS, left_out
from ortho_lora.surgery.sums import Extent, Sums

GROUPS, TASKS, SIZE, LIMIT = 8, 3, 2000, 80_000


@pytest.fixture(scope="module")
def means() -> torch.Tensor:
    """True gradients of three tasks, the first two much alike."""
    drawn = torch.randn(TASKS, SIZE, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [2.0], [0.5]])
    drawn[1] += 2 * drawn[0]
    return drawn


def products(means: torch.Tensor, limit_bytes: int, seed: int = 0) -> tuple[np.ndarray, int | None]:
    """U of gradients that are the same in all groups, [1 + m, 1, T, T], and the width."""
    sums = Sums([nn.Parameter(torch.zeros(SIZE))], Extent(GROUPS, TASKS, 0), seed=seed, limit_bytes=limit_bytes)
    for group in range(GROUPS):
        for task in range(TASKS):
            sums.blocks[0].add(task, group, means[task])
            sums.batches[group, task] += 1
    has = np.ones((GROUPS, TASKS))
    return across_groups(*(of.numpy() for of in sums.products()), (has, has), apart=False), sums.widths[0]


def test_the_jackknife_of_the_draws_is_the_spread_of_sketches(means):
    truth, _ = products(means, 10**9)
    found = [products(means, LIMIT, seed) for seed in range(400)]
    width = found[0][1]
    assert width is not None
    spread = np.std([of[0, 0] for of, _ in found], axis=0)
    told = np.mean(
        [_errors(left_out(of[0], np.array([float(width)]), 0, seed=s)) for s, (of, _) in enumerate(found)], 0
    )
    np.testing.assert_allclose(np.sqrt(told), spread, rtol=0.12)
    # Of one sketch: two standard deviations hold the truth as often as they should.
    one = [np.sqrt(_errors(left_out(of[0], np.array([float(width)]), 0))) for of, _ in found]
    inside = [np.abs(of[0, 0] - truth[0, 0]) < 2 * told for (of, _), told in zip(found, one, strict=True)]
    assert np.mean(inside) > 0.88


def _errors(beside: np.ndarray) -> np.ndarray:
    """Variance that the jackknife makes of draws alone, [T, T]."""
    rows = beside[:, 0].reshape(len(beside), -1).T
    return effects(rows[:, 0], rows, np.full(len(rows), 7.0)).error.reshape(TASKS, TASKS) ** 2


def test_beside_groups_it_adds_its_variance_to_theirs():
    generator = np.random.default_rng(0)
    root = generator.standard_normal((2, 3, 3))
    whole = root @ root.swapaxes(-1, -2)
    widths = np.array([100.0, 50.0])
    alone, beside = left_out(whole, widths, 0), left_out(whole, widths, 32)
    variance = [((m + DRAWS - 1) / (m + DRAWS)) * ((of - whole) ** 2).sum(0) for m, of in ((0, alone), (32, beside))]
    np.testing.assert_allclose(variance[0], variance[1], rtol=1e-10)
    np.testing.assert_allclose(beside.mean(0), whole, rtol=1e-10)  # so that groups keep their mean


def test_exact_blocks_have_none_and_what_is_not_known_stays_so():
    whole = np.full((2, 2, 2), 3.0) + np.eye(2)
    whole[1, 0] = whole[1, :, 0] = np.nan
    found = left_out(whole, np.array([np.inf, 100.0]), 8)
    assert found.shape == (DRAWS, 2, 2, 2)
    assert (found[:, 0] == whole[0]).all()
    assert (np.isnan(found[:, 1]) == np.isnan(whole[1])).all()
    assert np.ptp(found[:, 1, 1, 1]) > 0


def test_a_snapshot_that_does_not_fit_says_so_and_its_intervals_know(tmp_path):
    generator = torch.Generator().manual_seed(0)
    batches = {task: [torch.randn(8, 256, generator=generator) for _ in range(32)] for task in ("a", "b")}

    def loss_of(task: str, batch: torch.Tensor) -> torch.Tensor:
        states = model(batch)
        return (states[:, :160] - 1).square().mean() if task == "a" else (states[:, 96:] + 1).square().mean()

    torch.manual_seed(0)
    lora = LoraConfig(r=16, target_modules=["0"], init_lora_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(256, 256)), lora)
    surgeon = OrthoLoRA(model, ["a", "b"])
    exact = surgeon.snapshot(batches, loss_of, targets=batches)
    kept = [surgeon.snapshot(batches, loss_of, targets=batches, limit_bytes=1_000_000, seed=s) for s in range(8)]
    assert exact.exact
    assert not any(of.exact for of in kept)
    truth, *_ = exact.cosines("plain")
    for of in kept:
        assert len(of.products["plain"]) == len(of.held_out["plain"]) == 1 + 32 + DRAWS
        _, low, high = of.cosines("plain")
        assert low[0, 1] < truth[0, 1] < high[0, 1]
    np.testing.assert_allclose(
        np.mean([of.products["plain"][0] for of in kept], 0), exact.products["plain"][0], rtol=0.3
    )
    one, other = (_width(of) for of in (exact, kept[0]))
    assert other > 1.05 * one

    # In the record they are rows like those of groups, and are read so.
    with Recorder(tmp_path / "run") as recorder:
        OrthoLoRA(model, ["a", "b"], recorder=recorder)
        recorder.add_snapshot(0, kept[0])
    told = snapshot_matrix(tmp_path / "run", metric="plain").set_index("branch").loc[WHOLE]
    _, low, high = kept[0].cosines("plain")
    np.testing.assert_allclose(told[["cosine_low", "cosine_high"]].tolist(), [low[0, 1], high[0, 1]], rtol=1e-6)


def _width(of: Snapshot) -> float:
    _, low, high = of.cosines("plain")
    return float(high[0, 1] - low[0, 1])
