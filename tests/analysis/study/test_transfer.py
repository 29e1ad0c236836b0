"""The transfer matrix, and whether conflict foretells harm."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.outcomes.scores import read_scores
from analysis.study.results import read_results
from analysis.study.transfer import correlations, pair_conflicts, transfer_matrix


@pytest.fixture(scope="module")
def matrix(paired_study):
    results = read_results(paired_study)
    return transfer_matrix(results, read_scores(results.reported()))


def test_together_less_alone(matrix):
    assert len(matrix) == 12
    found = matrix.set_index(["task", "beside"]).loc["spam", "trec"]
    assert found["transfer"] == pytest.approx(found["together"] - found["alone"]) == pytest.approx(-0.07)
    assert found["clear"]
    assert found["seeds"] == 3


def test_conflict_beside_transfer(paired_study, matrix):
    pairs = pair_conflicts(read_results(paired_study), matrix)
    assert len(pairs) == 6
    assert pairs["cosine"].tolist() == pytest.approx([0.4 - 0.15 * place for place in range(6)], abs=0.06)
    assert pairs["transfer"].is_monotonic_decreasing
    found = correlations(pairs)
    chosen = found[(found["conflict"] == "cosine") & (found["harm"] == "of the pair")].set_index("kind")
    assert chosen.loc["Spearman", "value"] == pytest.approx(1)
    assert set(found["pairs"]) == {6}
    assert set(found["tasks"]) == {4}


def made_pairs(tasks, strength, rng, shared=1.0):
    """Every pair of some tasks; a pair's conflict and harm are of both tasks (`shared` of it) and of its own."""
    names = [f"task{place}" for place in range(tasks)]
    one, other = np.triu_indices(tasks, 1)
    count = len(one)
    of_task = shared * rng.standard_normal((2, tasks))
    cosine = of_task[0, one] + of_task[0, other] + rng.standard_normal(count)
    transfer = strength * cosine[:, None] + (of_task[1, one] + of_task[1, other])[:, None]
    transfer = transfer + rng.standard_normal((count, 2))
    return pd.DataFrame(
        {
            "condition": "", "task_i": [names[i] for i in one], "task_j": [names[j] for j in other], "cosine": cosine,
            "corrected": np.nan, "conflict_rate": 0.5, "transfer_i": transfer[:, 0], "transfer_j": transfer[:, 1],
        }
    )  # fmt: skip


def of_cosines(found, harm="of the pair", kind="Spearman"):
    chosen = found[(found["conflict"] == "cosine") & (found["harm"] == harm) & (found["kind"] == kind)]
    return chosen.iloc[0]


def test_correlations_match_those_of_pandas():
    pairs = made_pairs(6, 1.0, np.random.default_rng(0))
    found = correlations(pairs)
    mean = pairs[["transfer_i", "transfer_j"]].mean(axis=1)
    twice = pd.concat([pairs["cosine"]] * 2), pd.concat([pairs["transfer_i"], pairs["transfer_j"]])
    for kind in ("Spearman", "Pearson"):
        expected = pairs["cosine"].corr(mean, method=kind.lower())
        assert of_cosines(found, kind=kind)["value"] == pytest.approx(expected)
        expected = twice[0].corr(twice[1], method=kind.lower())
        assert of_cosines(found, "of each task", kind)["value"] == pytest.approx(expected)
    assert not (found["conflict"] == "corrected").any()  # never measured
    assert found[found["conflict"] == "conflict_rate"][["value", "p", "chance_low"]].isna().all(axis=None)


@pytest.mark.parametrize("tasks", [4, 5, 6])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_chance_is_every_exchange_of_tasks(tasks, strength):
    """Against scipy, which exchanges the tasks of a matrix of the cosines one by one."""
    pairs = made_pairs(tasks, strength, np.random.default_rng(tasks))
    matrix = np.zeros((tasks, tasks))
    places = np.triu_indices(tasks, 1)
    matrix[places] = -pairs["cosine"]
    matrix += matrix.T
    harm = -pairs[["transfer_i", "transfer_j"]].mean(axis=1)

    def statistic(order):
        order = order.astype(int)
        return stats.pearsonr(matrix[np.ix_(order, order)][places], harm).statistic

    expected = stats.permutation_test(
        (np.arange(tasks),), statistic, permutation_type="pairings", vectorized=False, n_resamples=math.factorial(tasks)
    )
    found = of_cosines(correlations(pairs), kind="Pearson")
    assert found["value"] == pytest.approx(expected.statistic)
    far = np.abs(expected.null_distribution) >= abs(expected.statistic) - 1e-9
    assert found["p"] == pytest.approx(far.mean())
    assert (found["chance_low"], found["chance_high"]) == pytest.approx(
        tuple(np.quantile(expected.null_distribution, [0.025, 0.975]))
    )


def test_noise_that_pairs_share_is_no_correlation():
    rng = np.random.default_rng(1)
    found = [of_cosines(correlations(made_pairs(6, 0.0, rng, shared=3.0)))["p"] for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.09  # 5%, and three standard errors of 200 tries


def test_a_correlation_of_many_pairs_is_found():
    rng = np.random.default_rng(2)
    found = [of_cosines(correlations(made_pairs(8, 1.0, rng)))["p"] for _ in range(20)]
    assert np.mean(np.array(found) < 0.05) > 0.8


def test_a_task_that_lacks_pairs_is_left_out():
    pairs = made_pairs(5, 1.0, np.random.default_rng(0))
    twin = pairs[pairs["task_i"] == "task0"].head(1).assign(task_j="task0-flip0.7", cosine=-9.0)
    found, alone = correlations(pd.concat([pairs, twin])), correlations(pairs)
    pd.testing.assert_frame_equal(found, alone)
    assert set(found["tasks"]) == {5}
    fewer = correlations(pairs[(pairs["task_i"] != "task1") | (pairs["task_j"] != "task3")])
    assert set(fewer["pairs"]) == {6}
    assert set(fewer["tasks"]) == {4}


def test_three_tasks_correlate_with_nothing():
    assert correlations(made_pairs(3, 1.0, np.random.default_rng(0))).empty
