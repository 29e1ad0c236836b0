"""The transfer matrix, and whether conflict foretells harm."""

import numpy as np
import pandas as pd
import pytest

from analysis.scores import read_scores
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


def made_pairs(count, strength, rng):
    cosine = rng.standard_normal(count)
    transfer = strength * cosine[:, None] + rng.standard_normal((count, 2))
    return pd.DataFrame(
        {
            "condition": "", "task_i": "a", "task_j": "b", "cosine": cosine, "corrected": np.nan,
            "conflict_rate": 0.5, "transfer_i": transfer[:, 0], "transfer_j": transfer[:, 1],
        }
    )  # fmt: skip


def test_correlations_match_those_of_pandas():
    pairs = made_pairs(20, 1.0, np.random.default_rng(0))
    found = correlations(pairs).dropna(subset="value").set_index(["harm", "kind"])
    mean = pairs[["transfer_i", "transfer_j"]].mean(axis=1)
    for kind in ("Spearman", "Pearson"):
        assert found.loc[("of the pair", kind), "value"] == pytest.approx(
            pairs["cosine"].corr(mean, method=kind.lower())
        )
        assert found.loc[("of the pair", kind), "low"] < found.loc[("of the pair", kind), "value"]
    assert not (correlations(pairs)["conflict"] == "corrected").any()  # never measured
    constant = correlations(pairs)
    assert constant[constant["conflict"] == "conflict_rate"]["value"].isna().all()


def test_noise_is_seldom_called_a_correlation():
    rng = np.random.default_rng(1)
    outside = []
    for _ in range(60):
        found = correlations(made_pairs(10, 0.0, rng))
        chosen = found[(found["harm"] == "of the pair") & (found["kind"] == "Spearman")].dropna(subset="value").iloc[0]
        outside.append(not chosen["low"] <= 0 <= chosen["high"])
    assert np.mean(outside) < 0.2  # percentile intervals of 10 pairs are somewhat too narrow


def test_three_pairs_correlate_with_nothing():
    assert correlations(made_pairs(3, 1.0, np.random.default_rng(0))).empty
