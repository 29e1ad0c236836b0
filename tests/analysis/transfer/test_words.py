"""What transfer says in words: only what is sure, the largest first."""

import numpy as np
import pandas as pd
import pytest

from analysis.transfer.words import MOST_TARGETS, headline, told_of_gain, told_of_targets


def matrix(**verdicts):
    nats = {("a", "b"): 0.03, ("b", "a"): 0.002, ("a", "c"): -0.004, ("c", "a"): -0.02, ("b", "b"): -0.5}
    rows = [
        {"source": source, "target": target, "nats": value, "verdict": verdicts.get(source + target, "not sure")}
        for (source, target), value in nats.items()
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame["nats"] - 0.001, high=frame["nats"] + 0.001)


def test_the_worst_and_the_best_of_what_is_sure():
    said = headline(matrix(ab="harms", ba="harms", ac="helps", bb="helps"))
    assert said == (
        "a harms b most, +30.0 mnat (+29.0 to +31.0) a step; a helps c most, -4.00 mnat (-5.00 to -3.00) a step; 3 of 4"
        " effects of a task on another are sure."
    )


@pytest.mark.parametrize(("verdicts", "expected"), [({}, "0 of 4"), ({"ca": "helps"}, "c helps a most")])
def test_what_is_not_sure_is_only_counted(verdicts, expected):
    said = headline(matrix(**verdicts))
    assert said.startswith(expected)
    assert "harms" not in said


def test_the_gain_is_that_of_what_is_advised():
    columns = {"adapters": [1, 2], "gain": [0.0, -0.02], "low": [0.0, -0.03], "high": [0.0, -0.01]}
    groups = pd.DataFrame(columns | {"elsewhere": [np.nan, -0.015], "groups": ["a + b", "a | b"]})
    assert told_of_gain(groups.assign(advised=[True, False]), 1e3, "mnat") == ""
    assert told_of_gain(groups.assign(advised=[False, True]), 1e3, "mnat") == (
        "Predicted, against one adapter: -20.0 mnat (-30.0 to -10.0) a step of all validation losses together; on other"
        " texts than they are chosen on -15.0."
    )


@pytest.mark.parametrize("count", [3, MOST_TARGETS + 1])
def test_of_many_targets_only_those_have_a_sentence_that_something_is_sure_of(count):
    tasks = [f"t{place}" for place in range(count)]
    rows = [{"source": one, "target": other, "nats": 0.001} for other in tasks for one in tasks]
    frame = pd.DataFrame(rows).assign(low=0.0, high=0.002)
    sure = (frame["source"] == "t0") & (frame["target"] == "t1")
    frame["verdict"] = np.where(sure, "harms", "not sure")
    progress = pd.DataFrame({"target": tasks, "nats": -0.01, "low": -0.02, "high": 0.0, "alone": -0.01})
    said = told_of_targets(frame, progress)
    if count > MOST_TARGETS:
        assert len(said) == 2
        assert said[1] == f"No other task is sure to change any of the other {count - 1}."
    else:
        assert len(said) == count
        assert said[0].endswith("no other task is sure to change it.")
    assert any(line.startswith("t1: ") and "t0 harms it most" in line for line in said)
