"""What is said of a pair: the verdict, and the cosine that it is on."""

from typing import Any

import pytest

from analysis.diagnosis.pairs import MANY, batch_sentence, more_words, verdict_sentence
from analysis.diagnosis.verdicts import Agreement

KNOWN: dict[str, Any] = {
    "branch": "A",
    "verdict": "conflict",
    "snapshot": None,
    "steps": 40,
    "cosine": -0.6,
    "cosine_low": -0.7,
    "cosine_high": -0.4,
    "q": 0.001,
    "more_steps": 0,
    "batch_cosine": -0.1,
    "batch_low": -0.2,
    "batch_high": 0.0,
    "conflict_rate": 0.7,
    "rate_low": 0.6,
    "rate_high": 0.8,
}
UNKNOWN = {"cosine": None, "cosine_low": -1.0, "cosine_high": 1.0, "verdict": "not enough data"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "conflict, strong: cosine -0.60 (95% interval -0.70 to -0.40)."),
        (
            {"cosine": None, "cosine_low": -1.0, "cosine_high": -0.1},
            "conflict: the cosine lies within -1.00 to -0.10, more is not known.",
        ),
        (
            {"verdict": "aligned", "cosine": 0.1, "cosine_low": 0.05, "cosine_high": 0.15},
            "aligned, weak: cosine +0.10 (95% interval +0.05 to +0.15).",
        ),
        (
            {"verdict": "no conflict worth the name", "cosine": 0.01, "cosine_low": -0.1, "cosine_high": 0.1},
            "no conflict worth the name: cosine +0.01 (95% interval -0.10 to +0.10), above -0.2.",
        ),
        (
            UNKNOWN | {"more_steps": 243},
            "the cosine lies within -1.00 to +1.00, more is not known; a verdict takes about 243 more batches of every",
        ),
        (
            {"verdict": "not enough data", "cosine_high": -0.01, "more_steps": 9},
            ", on one side of 0, as one of so many pairs may be by chance; a verdict takes about 9 more",
        ),
        (UNKNOWN | {"more_steps": None}, "a verdict takes over 10,000 more batches"),
        (UNKNOWN | {"cosine_low": None, "cosine_high": None, "steps": 5}, "5 measured steps, and it takes 8."),
        (UNKNOWN | {"steps": 0}, "nothing is measured"),
    ],
)
def test_verdict_sentence(changes: dict[str, Any], said: str) -> None:
    sentence = verdict_sentence(Agreement(**(KNOWN | changes)), False)
    assert said in sentence
    assert sentence.endswith(".")
    assert "nan" not in sentence


def test_twins_are_said_to_be_judged_by_their_batches() -> None:
    assert "of the batches themselves" in verdict_sentence(Agreement(**KNOWN), True)


def test_a_snapshot_tells_of_the_whole_model_and_of_twins() -> None:
    whole = Agreement(**(KNOWN | {"branch": "both", "snapshot": 0, "steps": 0}))
    assert verdict_sentence(whole, True).startswith("Whole model: conflict, strong: cosine -0.60 (95% interval -0.70")
    assert "batches themselves" not in verdict_sentence(whole, True)
    nothing = Agreement(**(KNOWN | UNKNOWN | {"snapshot": 0, "cosine_low": None, "cosine_high": None}))
    assert "a gradient is zero, or there is too little text" in verdict_sentence(nothing, False)


def test_what_the_rule_saw_stands_beside_chance() -> None:
    said = batch_sentence(Agreement(**KNOWN))
    assert "mean batch cosine of -0.10, 70% of the measurements negative, where chance gives 50%" in said


@pytest.mark.parametrize(
    ("more", "said"), [(1234, "about 1,234 more"), (MANY + 1, "over 10,000"), (None, "over 10,000")]
)
def test_more_words(more: float | None, said: str) -> None:
    assert said in more_words(more)
