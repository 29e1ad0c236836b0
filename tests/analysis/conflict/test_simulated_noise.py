"""Three ways to read a cosine, on batches whose true one is known."""

import numpy as np
import pytest

from analysis.conflict.noise import AT, SIGNAL, estimates, signal_of

WAYS = ("one batch", "mean of batches", "corrected by half batches", "snapshot")


def many(cosine, batch_size, batches, times=200):
    frames = [estimates(cosine, batch_size, batches, seed).set_index("estimate") for seed in range(times)]
    assert all(tuple(frame.index) == WAYS for frame in frames)
    return {way: np.array([frame.loc[way] for frame in frames]) for way in WAYS}  # [times, (cosine, low, high)]


@pytest.mark.parametrize("cosine", [-0.6, 0.0, 0.9])
def test_intervals_of_snapshots_hold_the_truth(cosine):
    found = many(cosine, AT, 32)["snapshot"]
    assert np.mean((found[:, 1] <= cosine) & (cosine <= found[:, 2])) >= 0.9


def test_a_batch_sees_its_share_of_the_signal():
    assert signal_of(AT) == pytest.approx(SIGNAL)
    found = many(-1.0, AT, 16)
    for way in ("one batch", "mean of batches"):
        assert found[way][:, 0].mean() == pytest.approx(-SIGNAL, abs=0.02)
    assert many(-1.0, 1024, 16, 20)["mean of batches"][:, 0].mean() < -0.75


def test_snapshots_know_more_of_the_same_batches_and_more_of_more():
    def width(found, way):
        return np.mean(found[way][:, 2] - found[way][:, 1])

    few, more = many(-0.5, AT, 32, 100), many(-0.5, AT, 256, 50)
    assert width(few, "snapshot") < 0.75 * width(few, "corrected by half batches")
    assert width(more, "snapshot") < 0.5 * width(few, "snapshot")
