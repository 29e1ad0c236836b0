"""What transfer says in words: only what is sure, the largest first."""

import numpy as np
import pandas as pd
import pytest

from analysis.transfer.words import headline, told_of_gain


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
