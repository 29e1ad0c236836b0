"""What draws of a lookahead are made of, without a model."""

from pathlib import Path

import numpy as np
import pytest

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.draws import PARTS
from ortho_lora.training.effects import Plan, conclude, found_of


def rows(effects, noise, seed):
    """Of one draw of three tasks, in all parts."""
    rng = np.random.default_rng(seed)
    keys = [(source, target, part) for source in "abc" for part in PARTS for target in "abc"]
    values = np.array([effects["abc".index(j), "abc".index(i)] for j, i, _ in keys]) + noise * rng.normal(size=27)
    return [
        {"source": source, "target": target, "part": part, "value": value, "error": 0.0}
        for (source, target, part), value in zip(keys, values, strict=True)
    ]


@pytest.fixture
def effects():
    return np.random.default_rng(0).normal(size=(3, 3))


def test_what_is_sure_is_counted_by_part(effects):
    found = found_of(Path("x"), 7, Plan(10, 4), [rows(effects, 1e-3, seed) for seed in range(4)])
    assert (found.step, found.steps, found.draws) == (7, 10, 4)
    said = "4 draws of 10 steps, with and without each task: of 6 ordered pairs these are sure: difference 6,"
    assert conclude(found).startswith(said)
    assert conclude(found).endswith("even 6, reliability 1.00.")
    assert all(effect.sure == (effect.source != effect.target) for effect in found.effects)
    for effect in found.effects:
        assert effect.low < effect.nats < effect.high
        assert effect.nats == pytest.approx(effects["abc".index(effect.source), "abc".index(effect.target)], abs=3e-3)


def test_where_draws_do_not_agree_it_says_what_to_do(effects):
    found = found_of(Path("x"), 7, Plan(1, 4), [rows(effects, 10, seed) for seed in range(4)])
    assert found.reliability["difference"] < 0.8
    assert "4 draws of 1 step, with and without each task: of 6 ordered pairs these are sure: diff" in conclude(found)
    assert conclude(found).endswith("take fewer --steps of a larger --batch-size, or more --draws.")


def test_one_draw_and_none(effects):
    one = found_of(Path("x"), 7, Plan(1, 4), [rows(effects, 1, 0)])
    assert conclude(one) == "1 draw of 1 step, with and without each task: one draw has no interval, take more --draws."
    assert {effect.interval for effect in one.effects} == {"–"}
    assert not any(effect.sure for effect in one.effects)
    none = found_of(Path("x"), 7, Plan(1, 4), [])
    assert (conclude(none), none.effects) == ("Stopped before a draw was complete.", ())


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("draws", -1)])
def test_a_plan_of_nothing_is_refused(name, value):
    with pytest.raises(OrthoLoraError, match=f"{name}: {value} given, expected at least 1"):
        Plan(**{name: value})
