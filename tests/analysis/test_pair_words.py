"""What is said of a pair: noise is never called a conflict."""

import math

import pytest

from analysis.pair_words import more_steps, pair_sentence
from analysis.sentences import MANY

ROW = {
    "branch": "A",
    "cos_before": -0.1,
    "cos_low": -0.15,
    "cos_high": -0.05,
    "corrected": -0.5,
    "corrected_low": -0.6,
    "corrected_high": -0.4,
    "shares_texts": False,
}
NONE = dict.fromkeys(["corrected", "corrected_low", "corrected_high"], math.nan)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "pull against each other, strongly: mean cosine -0.10, 95% interval -0.15 to -0.05 is below 0; without",
        ),
        ({"cos_high": 0.02}, "nothing is told from noise: mean cosine -0.10, 95% interval -0.15 to +0.02 includes 0"),
        ({"cos_before": 0.1, "cos_low": 0.05, "cos_high": 0.15} | NONE, "they agree, moderately"),
        ({"cos_low": math.nan, "cos_high": math.nan}, "of too few steps"),
        ({"cos_before": math.nan}, "nothing is measured"),
        ({"shares_texts": True} | NONE, "no correction is needed"),
        (NONE, "too weak to correct it"),
    ],
)
def test_pair_sentence(changes: dict[str, float], said: str) -> None:
    sentence = pair_sentence(ROW | changes)
    assert said in sentence
    assert sentence.endswith(".")
    assert "nan" not in sentence


@pytest.mark.parametrize(
    ("steps", "said"), [(0, "clear"), (1234, "1,234 more"), (MANY, "over 10,000"), (math.nan, "unknown")]
)
def test_more_steps(steps: float, said: str) -> None:
    assert more_steps({"to_exclude_zero": steps}) == said
