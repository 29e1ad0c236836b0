"""What a snapshot tells of pairs, the rule that stops when their intervals are narrow, and the sentence at the end."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import known_snapshot

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.judge import Estimates, judge
from ortho_lora.record.products import of_means
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.training.precision import ENDLESS, Goal, conclude, looks, needed, pairs_of

SIZE = 60  # coordinates


class Stream:
    """Batches of tasks whose true gradients have known cosines, in 32 groups in turn."""

    def __init__(self, rng, truth, share, batches):
        """`truth`: [T, SIZE], of norm 1 or 0; `share`: of a batch's squared gradient that is the truth."""
        self.truth = truth
        there = np.linalg.norm(truth, axis=1)[:, None]
        noise = rng.standard_normal((batches, *truth.shape)) * np.sqrt((1 / share - 1) / SIZE)
        self.gradients = truth + there * noise  # [batches, T, SIZE]

    def at(self, batches):
        """A snapshot of the first batches."""
        groups = [self.gradients[first:batches:32].mean(axis=0) for first in range(min(batches, 32))]
        products = {metric: of_means(np.stack(groups))[:, None] for metric in ("plain", "adamw")}
        size = len(self.truth)
        counts = np.full(size, batches)
        return Snapshot(
            tasks=tuple("abcdefgh"[:size]), targets=(), blocks=((0, "query", "B"),), products=products, held_out={},
            groups=np.minimum(counts, 32), target_groups=counts[:0], batches=counts, target_batches=counts[:0],
            losses=np.ones(size), target_losses=np.ones(0), exact=True, of_optimizer=True,
        )  # fmt: skip


def directions(*angles):
    found = np.zeros((len(angles), SIZE))
    found[:, 0], found[:, 1] = np.cos(angles), np.sin(angles)
    return found


def test_it_looks_neither_early_nor_often():
    found = list(looks(ENDLESS))
    assert found[:9] == [16, 24, 32, 40, 56, 72, 96, 120, 152]
    assert found[-1] <= ENDLESS < found[-1] * 1.26
    assert all(one % 8 == 0 for one in found)
    assert all(1.25 * one <= more < 1.25 * one + 8 for one, more in itertools.pairwise(found))
    assert [taken for taken in range(1, 60) if Goal(100, 0.05).is_due(taken)] == [16, 24, 32, 40, 56]
    assert not any(map(Goal(100).is_due, range(101)))


@pytest.mark.parametrize("metric", ["plain", "adamw"])
def test_pairs_are_those_of_the_snapshot_with_the_verdict_among_them(metric):
    snapshot = known_snapshot(0)
    found = pairs_of(snapshot, metric)
    assert [(pair.task_i, pair.task_j) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    cosine, low, high = snapshot.cosines(metric)
    assert (found[0].cosine, found[0].low, found[0].high) == (cosine[0, 1], low[0, 1], high[0, 1])
    assert found[0].verdict == "conflict"
    assert {pair[2:] for pair in found[1:]} == {(None, None, None, "not enough data")}  # c has too little text
    assert [pair.interval for pair in found] == [f"{low[0, 1]:+.2f} to {high[0, 1]:+.2f}", "–", "–"]


@given(st.integers(0, 30), st.integers(2, 6))
def test_verdicts_are_those_of_the_judge_over_all_pairs(seed, size):
    rng = np.random.default_rng(seed)
    snapshot = Stream(rng, directions(*rng.uniform(0, np.pi, size)), 0.1, 32).at(32)
    estimates = Estimates.of(snapshot.estimates("plain"))
    i, j = np.triu_indices(size, 1)
    verdicts = judge(Estimates(*(of.reshape(size, size)[i, j] for of in estimates))).verdict
    assert [pair.verdict for pair in pairs_of(snapshot, "plain")] == verdicts.tolist()


def test_the_widest_of_all_pairs_decides_and_those_that_nothing_is_told_of_do_not():
    snapshot = known_snapshot(0)  # of c nothing is told
    _, low, high = snapshot.cosines("plain")
    half = (high - low)[0, 1] / 2
    assert 0 < half < 0.5
    assert Goal(100, half + 1e-9).is_reached(snapshot, "plain")
    assert not Goal(100, half - 1e-9).is_reached(snapshot, "plain")
    assert not Goal(100).is_reached(snapshot, "plain")
    wide = Stream(np.random.default_rng(0), directions(0, 2, 2.5), 0.2, 64)
    wide.gradients[:, 2] += 3 * np.random.default_rng(1).standard_normal((64, SIZE))  # c alone is not clear of noise
    _, low, high = wide.at(64).cosines("plain")
    assert (high - low)[0, 1] < 0.6 < (high - low)[0, 2]
    assert not Goal(100, 0.3).is_reached(wide.at(64), "plain")
    wide.gradients[:, 2] = 0  # no gradient, so nothing to wait for
    assert Goal(100, 0.3).is_reached(wide.at(64), "plain")


def test_one_end_is_no_narrow_interval_where_the_strength_is_not_known():
    """Where a product is clearly below 0, and the squares beside it are not clear."""
    groups = 8
    products = np.tile(np.array([[0.02, -1.0], [-1.0, 0.02]]), (1 + groups, 1, 1))
    products[1:, 0, 0] += 0.2 * np.resize([1, -1], groups)
    products[1:, 1, 1] = products[1:, 0, 0]
    snapshot = replace(
        Stream(np.random.default_rng(0), directions(0, 2), 0.2, 16).at(16), groups=np.full(2, groups),
        products={"plain": products[:, None]},
    )  # fmt: skip
    (pair,) = pairs_of(snapshot, "plain")
    assert (pair.cosine, pair.low, pair.high) == (None, -1, 0)
    assert not Goal(100, 0.9).is_reached(snapshot, "plain")


def test_what_is_expected_is_about_what_it_takes():
    rng = np.random.default_rng(0)
    goal, over = Goal(2000, 0.12), []
    for _ in range(8):
        stream = Stream(rng, directions(0, 1.2, 2.0), 0.1, 2000)
        counts = list(looks(2000))
        ends = [goal.expected(stream.at(count), "plain") for count in counts]
        reached = [goal.is_reached(stream.at(count), "plain") for count in counts]
        assert reached == [end == count for count, end in zip(counts, ends, strict=True)]
        assert set(ends) <= {*counts, 2000}
        took = counts[reached.index(True)]
        over += [end / took for count, end in zip(counts, ends, strict=True) if took / 2 < count < took]
    assert 0.7 < np.median(over) < 1.4
    assert goal.expected(None, "plain") == 0, "not known"
    assert Goal(90, 0.01).expected(stream.at(80), "plain") == 90
    assert Goal(90).expected(stream.at(80), "plain") == Goal(90).expected(None, "plain") == 90
    assert needed(stream.at(16), "plain", 1e-4) is None


@pytest.mark.parametrize("half_width", [0.3, 0.15])
def test_intervals_cover_the_truth_where_the_rule_has_stopped(half_width):
    rng = np.random.default_rng(1)
    goal, inside, lengths = Goal(600, half_width), [], []
    for _ in range(150):
        truth = directions(*rng.uniform(0, np.pi, 3))
        stream = Stream(rng, truth, 0.1, 600)
        count = next(count for count in looks(600) if goal.is_reached(stream.at(count), "plain"))
        _, low, high = stream.at(count).cosines("plain")
        pairs = np.triu_indices(3, 1)
        inside += [((low <= truth @ truth.T) & (truth @ truth.T <= high))[pairs]]
        lengths.append(count)
    assert np.mean(inside) > 0.92
    assert len(set(lengths)) > 2


def test_the_conclusion_says_what_was_taken_what_is_told_and_how_precisely():
    stream = Stream(np.random.default_rng(3), directions(0, 0.3, 2.4), 0.2, 64)
    snapshot = stream.at(64)
    pairs = pairs_of(snapshot, "plain")
    assert [pair.verdict for pair in pairs] == ["aligned", "conflict", "conflict"]
    widest = max(pairs, key=lambda pair: pair.high - pair.low)
    half = (widest.high - widest.low) / 2
    taken = "64 batches of every task, in 32 groups of texts: 3 of 3 pairs are told (1 aligned, 2 conflict)."
    width = f" The widest 95% interval is that of {widest.task_i} – {widest.task_j}: {widest.interval}"
    assert conclude(snapshot, "plain", Goal(64)) == f"{taken}{width}."
    assert conclude(snapshot, "plain", Goal(64, half + 0.01)) == f"{taken}{width}, within ±{half + 0.01:g} as asked."
    more = needed(snapshot, "plain", half / 2)
    assert 64 < more < 600
    assert conclude(snapshot, "plain", Goal(64, half / 2)).endswith(f"; ±{half / 2:g} takes about {more:,} batches.")
    assert conclude(snapshot, "plain", Goal(64, 1e-4)).endswith("; ±0.0001 takes more than 10,000 batches.")


def test_the_conclusion_says_what_tells_nothing_and_why():
    said = conclude(known_snapshot(0), "plain", Goal(24))
    assert said.startswith("10 batches of every task, in 5 to 12 groups of texts: 1 of 3 pairs are told (1 conflict).")
    assert said.endswith(" Too little text of c: in fewer than 8 groups it tells nothing.")
    few = Stream(np.random.default_rng(0), directions(0, 1), 0.2, 16).at(1)
    assert conclude(few, "plain", Goal(1)) == (
        "1 batch of every task, in 1 group of texts: 0 of 1 pairs are told. Too little text of a, b: in fewer than 8"
        " groups it tells nothing: take at least 8 batches."
    )
    snapshot = Stream(np.random.default_rng(0), directions(0, 1), 0.2, 16).at(16)
    both = {metric: np.concatenate([0 * of, of], axis=1) for metric, of in snapshot.products.items()}
    silent = replace(snapshot, products=both, blocks=((0, "query", "A"), (0, "query", "B")))
    assert conclude(silent, "plain", Goal(16)).endswith(
        " Branch A has no gradient, as wherever B = 0, and LoRA starts there."
    )


@pytest.mark.parametrize(
    ("batches", "half_width", "sentence"),
    [
        (0, None, "batches: 0 given, expected at least 1"),
        (100, 0.0, "half_width: 0 given, expected a number between 0 and 1"),
        (100, float("nan"), "half_width: nan given"),
        (15, 0.05, "batches: 15 given with a half_width, which takes at least 16 to tell"),
    ],
)
def test_goals_that_cannot_be_met_are_refused(batches, half_width, sentence):
    with pytest.raises(OrthoLoraError, match=sentence):
        Goal(batches, half_width)
