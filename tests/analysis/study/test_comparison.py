"""Means, gains, relative changes and gap recovery of made studies."""

import numpy as np
import pandas as pd
import pytest

from analysis.outcomes.scores import MEAN, read_scores
from analysis.study import comparison
from analysis.study.results import boards, read_results


def boards_of(directory):
    results = read_results(directory)
    return boards(results, read_scores(results.reported()))


def row(frame, **keys):
    found = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_means_over_seeds_and_tasks(finished):
    frame = comparison.means(boards_of(finished))
    movies = row(frame, method="joint", task="movies")
    assert movies["mean"] == pytest.approx(np.mean(movies["values"]))
    assert movies["spread"] == pytest.approx(np.std(movies["values"], ddof=1))
    assert movies["seeds"] == 3
    of_tasks = frame[(frame["method"] == "joint") & (frame["task"] != MEAN)]["mean"]
    assert row(frame, method="joint", task=MEAN)["mean"] == pytest.approx(of_tasks.mean())


def test_gains_are_paired_by_seed(finished):
    found = boards_of(finished)
    means, gains = comparison.means(found), comparison.gains(found)
    gain = row(gains, method="single", task="movies")
    ours, theirs = (row(means, method=method, task="movies")["values"] for method in ("single", "joint"))
    assert gain["values"] == pytest.approx(np.subtract(ours, theirs))
    assert gain["low"] < gain["gain"] < gain["high"]
    assert gain["clear"]
    assert gain["respects"] == "seeds and examples"


def test_an_interval_without_predictions_is_narrower_and_says_so(maker, studies):
    rng = np.random.default_rng(0)
    for predictions in (True, False):
        maker.uses.clear()
        maker.directory = maker.directory.with_name(str(predictions))
        for method in ("joint", "ortho-lora"):
            for seed in range(3):
                maker.add(method, seed, {"movies": 0.7 + 0.01 * rng.random()}, predictions=predictions)
        maker.write()
    widths = {}
    for name in ("True", "False"):
        gain = comparison.gains(boards_of(maker.directory.with_name(name))).iloc[0]
        widths[name] = gain["respects"]
    assert widths == {"True": "seeds and examples", "False": "seeds alone"}


def test_an_error_that_falls_is_a_gain(maker):
    for seed in range(3):
        maker.add("joint", seed, {"stars": 0.5}, metric="rmse", predictions=False)
        maker.add("ortho-lora", seed, {"stars": 0.25}, metric="rmse", predictions=False)
        maker.add("single", seed, {"stars": 0.2}, metric="rmse", predictions=False)
    found = boards_of(maker.write())
    assert row(comparison.gains(found), method="ortho-lora", task="stars")["gain"] == pytest.approx(0.25)
    assert row(comparison.relative(found), method="ortho-lora")["delta_m"] == pytest.approx(-25)
    assert row(comparison.relative(found), method="single")["rank"] == 1
    recovered = row(comparison.recovery(found), method="ortho-lora", task="stars")
    assert recovered["recovered"] == pytest.approx(0.25 / 0.3)


def test_no_mean_over_metrics_that_point_apart(maker):
    maker.add("joint", 0, {"movies": 0.7}, metric="accuracy")
    [board] = boards_of(maker.write())
    assert board.headline == "movies"
    tasks = board.tasks[0], board.tasks[0].model_copy(update={"name": "stars", "metrics": ("rmse",)})
    mixed = type(board)(board.condition, board.baseline, tasks, board.scores)
    assert MEAN not in mixed.metrics
    assert mixed.headline is None


def test_twins_stay_out_of_the_mean(maker):
    twins = {"movies-flip": "movies"}
    maker.add("joint", 0, {"movies": 0.75, "movies-flip": 0.25, "trec": 0.5}, twins=twins)
    frame = comparison.means(boards_of(maker.write()))
    assert row(frame, task=MEAN)["mean"] == pytest.approx(0.625)
    assert frame.set_index("task")["twin"].to_dict() == {
        MEAN: False, "movies": False, "movies-flip": True, "trec": False,
    }  # fmt: skip


def test_two_seeds_tell_a_gain_and_no_more(maker, studies):
    found = boards_of(studies.three_methods(maker, seeds=(0, 1)).write(seeds=(0, 1)))
    gains = comparison.gains(found)
    assert gains["gain"].notna().all()
    assert gains["spread"].notna().all()
    assert gains[["low", "high"]].isna().all(axis=None)
    assert set(comparison.recovery(found)["in words"]) == {
        "unknown: fewer than three seeds do not tell whether there is a gap to recover"
    }


def test_recovery_where_there_is_a_gap(finished):
    found = row(comparison.recovery(boards_of(finished)), method="ortho-lora", task=MEAN)
    assert found["recovered"] == pytest.approx(found["gain"] / found["gap"])
    assert found["low"] < 0.5 < found["high"]
    assert found["in words"].startswith("recovers ")


@pytest.mark.parametrize(
    ("single", "words"),
    [
        (0.742, "no gap to recover: single and joint do not differ beyond noise"),
        (0.6, "no gap to recover: single is worse than joint"),
    ],
)
def test_no_gap_to_recover(maker, single, words):
    for seed in range(3):
        for method, level in (("single", single), ("joint", 0.74), ("ortho-lora", 0.76)):
            maker.add(method, seed, {"movies": level + 0.005 * (seed - 1) * (method == "single")})
    found = comparison.recovery(boards_of(maker.write())).iloc[0]
    assert found["in words"] == words
    assert pd.isna(found["recovered"])


def test_ranks_are_by_seed_and_task(maker):
    for seed, better in enumerate(("joint", "ortho-lora")):
        for method in ("joint", "ortho-lora"):
            level = 0.8 if method == better else 0.7
            maker.add(method, seed, {"movies": level, "trec": level})
    found = comparison.relative(boards_of(maker.write(seeds=(0, 1))))
    assert found["rank"].tolist() == [1.5, 1.5]
    assert found["rank_spread"].tolist() == pytest.approx([0.5**0.5] * 2)
    assert found["delta_m"].isna().all()  # nothing to be relative to
