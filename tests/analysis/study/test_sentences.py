"""What is said of a study, and what is not."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.outcomes.units import amount, apart, range_of
from analysis.study.findings import find


def said(directory):
    return " ".join(find(directory).sentences)


def test_a_clear_gain_and_what_it_recovers(finished):
    text = said(finished)
    assert "ortho-lora is 3.1 points above joint on the mean of the tasks" in text
    assert "better by more than noise, with 3 seeds" in text
    assert "of that gap ortho-lora recovers 48%" in text
    assert "the paper's table says 80%, its abstract 95%" in text
    assert "1.10 times as long as one of joint; the paper reports 1.4" in text
    assert "3 seeds are few" in text


def test_noise_is_called_noise_and_better_rivals_are_named(tuned_study):
    text = said(tuned_study)
    assert "not distinguishable from noise with 3 seeds" in text
    assert "joint-rank32 gained more: +3.2 points" in text
    assert "setting tried for joint lie 3.0 points apart" in text


def test_a_rival_that_lost_seeds_gained_nothing(maker):
    """Its one seed was an easy one."""
    for seed in range(3):
        maker.add("joint", seed, {"movies": 0.70})
        maker.add("ortho-lora", seed, {"movies": 0.90 if seed == 0 else 0.72})
        maker.add("wide", seed, {"movies": 0.85}, state="failed" if seed else "finished")
    text = said(maker.write())
    assert "wide gained more" not in text
    assert "ortho-lora is 8.0 points above joint" in text


def test_no_gap(maker):
    for seed in range(3):
        for method in ("single", "joint", "ortho-lora"):
            maker.add(method, seed, {"movies": 0.7})
    text = said(maker.write())
    assert "No gap to recover: single is 0.0 points above joint" in text
    assert "cannot be said how much is recovered" in text


def test_conditions_are_counted(dialled_study):
    text = said(dialled_study)
    assert "Under 3 conditions ortho-lora is better than joint by more than noise in 1 and worse in 0" in text
    assert "at rho=1.0" in text
    assert "There is such a gap in 2 of 3 conditions" in text


def test_transfer_and_correlation_are_told_with_their_limits(paired_study):
    text = said(paired_study)
    assert (
        "of 12 tasks beside one other 4 did worse by more than noise and 4 better; 0.6 in all would by chance" in text
    )
    assert "trec beside spam: -7.0 points" in text or "spam beside trec: -7.0 points" in text
    assert "correlate by +1.00 (Spearman); with the tasks exchanged at random 95% lie between" in text
    assert "p = 0.042: it is more than noise; 4 tasks are few." in text


def test_a_study_that_goes_on_says_so_first(maker):
    maker.add("joint", 0, {"movies": 0.7}, state="failed")
    maker.add("joint", 1, {"movies": 0.7}, state="waiting")
    found = find(maker.write(phase="tuning"))
    assert found.sentences[0] == (
        "Not all is there: 0 of 2 planned runs have finished, 1 failed or are lost; settings are still being chosen."
        " What follows is of those."
    )
    assert found.sentences[1] == "No method can be compared with joint yet."


@pytest.mark.parametrize("null", [False, True])
def test_training_that_diverged_is_left_out_and_said(maker, studies, null):
    studies.three_methods(maker)
    part = next((maker.write() / "joint-s0" / "metrics").glob("*.parquet"))
    rows = pq.read_table(part).to_pandas()
    rows.loc[(rows["task"] == "trec") & (rows["step"] == studies.STEPS), "value"] = np.nan
    pq.write_table(pa.table({name: pa.array(rows[name], from_pandas=null) for name in rows}), part)
    found = find(maker.directory)
    assert "their metric is no number: trec in joint-s0." in found.warnings[0]
    assert found.gains.set_index(["method", "task"]).loc[("ortho-lora", "trec"), "seeds"] == 2
    json.dumps(found.document(), allow_nan=False)


def test_intervals_that_are_too_narrow_are_called_so(maker, studies):
    assert "intervals know of the seeds alone" in said(studies.three_methods(maker, predictions=False).write())


def test_one_seed_is_not_told_from_noise(maker, studies):
    text = said(studies.three_methods(maker, seeds=(0,)).write(seeds=(0,)))
    assert "from 1 seed: too few to tell it from noise" in text
    assert "1 seed is few" in text


def test_sentences_are_few(finished, paired_study):
    for directory in (finished, paired_study):
        assert 3 <= len(find(directory).sentences) <= 8


@pytest.mark.parametrize(("metric", "words"), [("accuracy", "-1.2 points"), ("rmse", "-0.0123")])
def test_points_are_hundredths_and_errors_stay(metric, words):
    assert amount(-0.0123, metric) == words
    assert apart(-0.0123, metric) == f"{words[1:]} below"
    assert range_of(-0.01, 0.02, "accuracy") == "-1.0 to +2.0"
