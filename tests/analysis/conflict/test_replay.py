"""Replay against `ortho_lora.surgery.projection`, and against what runs recorded of themselves."""

import dataclasses
import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.conflict.replay import INTERESTING, SCOPES, Steps, apply, replay, steps_of
from analysis.conflict.rules import RULES, after, project
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_run
from ortho_lora.surgery import gram as grams
from ortho_lora.surgery import projection

TASKS = ("movies", "tweets", "trec")
BLOCKS = tuple((layer, module, branch) for layer in (0, 1) for module in ("query", "value") for branch in "AB")


def random_steps(seed: int, steps: int, tasks: int, width: int, orders: bool = True) -> Steps:
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((steps, len(BLOCKS), tasks, width)) * rng.lognormal(size=(tasks, 1))
    gradients[0, 0, 0] = 0
    gram = gradients @ gradients.swapaxes(-1, -2)
    drawn = np.stack([rng.permutation(tasks) for _ in range(steps)]) if orders else None
    return Steps(np.arange(steps), BLOCKS, gram, np.ones(gram.shape[:3]), drawn)


def test_every_rule_of_training_but_those_of_torchjd_is_here() -> None:
    assert tuple(projection._RULES) == RULES


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 5),
    st.sampled_from(RULES),
    st.sampled_from(SCOPES),
    st.sampled_from(["both", "A", "B"]),
    st.sampled_from(["recorded", "mean"]),
)
def test_equals_the_rules_of_training(seed: int, tasks: int, rule: str, scope: str, branches: str, order: str) -> None:
    part = random_steps(seed, 4, tasks, 7)
    found = apply(part, rule, scope, branches, order)
    modules, branch_names = [block[:2] for block in BLOCKS], [block[2] for block in BLOCKS]
    places, count = grams.scope_groups(modules, branch_names, scope, branches)
    state = None
    for step, gram in enumerate(part.gram):
        assert part.orders is not None
        orders = list(permutations(range(tasks))) if order == "mean" else [part.orders[step].tolist()]
        expected = projection.project_groups(
            torch.from_numpy(gram), torch.tensor(places), count, rule, orders, state=state
        )
        state = expected.state
        np.testing.assert_allclose(found.coefficients[step], expected.coefficients, rtol=1e-8, atol=1e-9)
        np.testing.assert_array_equal(found.projected[step], expected.projected)
        norms, cosines = after(gram, found.coefficients[step])
        changed = grams.combine(torch.from_numpy(gram), expected.coefficients)
        np.testing.assert_allclose(norms, grams.norms(changed), rtol=1e-6, atol=1e-9)
        known = grams.cosines_after(torch.from_numpy(gram), expected.coefficients).numpy()
        np.testing.assert_allclose(cosines, known, rtol=1e-5, atol=1e-7)
    if state is not None:
        np.testing.assert_allclose(found.state, state, rtol=1e-9, atol=1e-12)


def test_gradvac_goes_on_where_it_stopped() -> None:
    part = random_steps(0, 6, 3, 5)
    whole = apply(part, "gradvac")
    first, last = (replace(part, gram=part.gram[a:b], orders=part.orders[a:b]) for a, b in ((0, 2), (2, 6)))  # type: ignore[index]
    state = apply(first, "gradvac").state
    np.testing.assert_array_equal(apply(last, "gradvac", state=state).coefficients, whole.coefficients[2:])


def test_what_a_run_recorded_of_itself(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    """The synthetic run was projected block by block in configuration order."""
    (part,) = steps_of(run, read_run(run))
    found = apply(part, "pcgrad")
    norms, cosines = after(part.gram, found.coefficients)
    keys = ["step", "layer", "module", "branch"]
    tasks = tables["norms"].sort_values(keys, kind="stable")
    pairs = tables["pairs"].sort_values(keys, kind="stable")
    i, j = np.triu_indices(len(TASKS), 1)
    np.testing.assert_allclose(norms.ravel(), tasks["norm_after"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.coefficients.sum(axis=-2).ravel(), tasks["weight"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(part.weights.ravel(), tasks["weight"], rtol=1e-6)
    np.testing.assert_allclose(cosines[..., i, j].ravel(), pairs["cos_after"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.projected[..., i, j].ravel(), pairs["projected_ij"])
    np.testing.assert_array_equal(found.projected[..., j, i].ravel(), pairs["projected_ji"])


@pytest.mark.parametrize("method", INTERESTING)
def test_chunks_make_no_difference(run: Path, method: tuple[str, str, str]) -> None:
    whole, parts = replay(run, *method), replay(run, *method, rows=200)
    assert len(list(steps_of(run, read_run(run), 200))) > 5
    for name in ("projected", "removed", "agreement", "direction", "steps"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12)
    for one, other in zip(parts.tasks, whole.tasks, strict=True):
        assert one.task == other.task
        for name in ("weight", "removed", "cosine", "conflict"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-12)


def test_agreement_and_effects_by_hand(run: Path) -> None:
    own, plain = replay(run, "pcgrad"), replay(run, "sum")
    assert own.agreement == pytest.approx(1, abs=1e-6)
    assert (plain.projected, plain.removed) == (0, pytest.approx(0, abs=1e-12))
    assert [task.weight for task in plain.tasks] == [1.0] * 3
    (part,) = steps_of(run, read_run(run))
    whole = part.gram.sum(axis=1)  # the sum's update needs the whole model's Gram matrix only
    towards = whole.sum(axis=1)
    cosine = towards / np.sqrt(whole.sum(axis=(1, 2))[:, None] * np.diagonal(whole, axis1=1, axis2=2))
    np.testing.assert_allclose([task.cosine for task in plain.tasks], cosine.mean(axis=0))
    np.testing.assert_allclose([task.conflict for task in plain.tasks], (cosine < 0).mean(axis=0))


def test_two_equally_long_gradients_are_stretched_and_not_turned(records: ModuleType, tmp_path: Path) -> None:
    """With n_1 = n_2 and cosine c < 0 the projected update is (1 - c) (g_1 + g_2), block by block."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((6, 2, 2, 2, 2, 1, 8))
    gradients[..., 1, :, :] -= gradients[..., 0, :, :]  # most of them conflict
    gradients /= np.linalg.norm(gradients, axis=-1, keepdims=True)
    info = records.run_info("equal", [records.task_info(name) for name in TASKS[:2]])
    tables = records.gradient_tables(np.repeat(gradients, 2, axis=-2), TASKS[:2])
    equal = records.write_run(tmp_path / "equal", info, records.status(), tables)
    found = replay(equal, "pcgrad", order="mean")
    assert found.projected is not None
    assert found.projected > 0.5
    assert found.direction == pytest.approx(1, abs=1e-5)
    assert found.tasks[0].weight is not None
    assert found.tasks[0].weight > 1.2


def test_the_direction_by_hand(run: Path) -> None:
    assert replay(run, "sum").direction == pytest.approx(1, abs=1e-9)
    (part,) = steps_of(run, read_run(run))
    weights = apply(part, "gradvac", "module").coefficients.sum(axis=-2)
    cosines = []
    for gram, weight in zip(part.gram.reshape(-1, 3, 3), weights.reshape(-1, 3), strict=True):
        values, vectors = np.linalg.eigh(gram)
        gradients = vectors * np.sqrt(values.clip(min=0))  # rows with this Gram matrix
        plain, update = gradients.sum(axis=0), weight @ gradients
        if length := np.linalg.norm(plain) * np.linalg.norm(update):
            cosines.append(plain @ update / length)
    assert replay(run, "gradvac", "module").direction == pytest.approx(np.mean(cosines), rel=1e-6)


def test_projecting_two_tasks_hurts_neither() -> None:
    found = apply(random_steps(1, 50, 2, 3), "pcgrad", "block")
    part = random_steps(1, 50, 2, 3)
    towards = np.einsum("snj,snji->sni", found.coefficients.sum(axis=-2), part.gram)
    assert (towards >= -1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mgda"}, "rule: expected one of sum, pcgrad, pcgrad-inplace, gradvac, found 'mgda'."),
        ({"rule": "sum", "scope": "layer"}, "scope: expected one of block, module, model, found 'layer'."),
        ({"rule": "sum", "branches": "C"}, "branches: expected one of both, A, B, found 'C'."),
        ({"rule": "sum", "order": "random"}, "order: expected one of recorded, mean, found 'random'."),
    ],
)
def test_refusals(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OrthoLoraError) as error:
        replay(run, **options)
    assert str(error.value) == message


def test_nothing_to_replay(records: ModuleType, tmp_path: Path) -> None:
    info = records.run_info("bare", [records.task_info(name) for name in TASKS])
    bare = records.write_run(tmp_path / "bare", info, records.status(), {})
    with pytest.raises(OrthoLoraError, match="there is nothing to replay"):
        replay(bare, "sum")


def test_steps_of_which_rows_are_missing_are_left_out(
    records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """The others are replayed as if these had never been recorded."""
    info = records.run_info("torn", [records.task_info(name) for name in TASKS])
    numbers = sorted(tables["pairs"]["step"].unique())
    some = tables | {"pairs": tables["pairs"].iloc[:-1], "norms": tables["norms"].iloc[1:]}
    torn = records.write_run(tmp_path / "torn", info, records.status(), some)
    kept = {name: rows[rows["step"].between(numbers[1], numbers[-2])] for name, rows in tables.items()}
    whole = records.write_run(tmp_path / "whole", info, records.status(), kept)
    found, expected = replay(torn, "pcgrad"), replay(whole, "pcgrad")
    assert (found.left_out, expected.left_out) == (2, 0)
    assert found == dataclasses.replace(expected, left_out=2)
    assert found.steps == len(numbers) - 2


def test_no_whole_step_is_told(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    info = records.run_info("torn", [records.task_info(name) for name in TASKS])
    torn = tables | {"pairs": tables["pairs"][tables["pairs"]["layer"] == 0]}
    path = records.write_run(tmp_path / "torn", info, records.status(), torn)
    with pytest.raises(OrthoLoraError, match="no step has all of its rows, 24 norms and 24 pairs"):
        replay(path, "sum")


def test_command(run: Path) -> None:
    result = CliRunner().invoke(app, ["replay", str(run), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [(one["rule"], one["scope"], one["branches"]) for one in document["replays"]] == list(INTERESTING)
    assert "One step ahead only" in document["note"]
    text = (
        CliRunner().invoke(app, ["replay", str(run), "--rule", "pcgrad", "--scope", "model", "--branches", "A"]).stdout
    )
    for words in ("pcgrad @", "model, A only", "cosine with update", "One step ahead only"):
        assert words in " ".join(text.split())
    refused = CliRunner().invoke(app, ["replay", str(run), "--scope", "model"])
    assert (refused.exit_code, refused.stderr[:7]) == (2, "error: ")


def test_project_is_the_mean_over_orders() -> None:
    gram = random_steps(3, 2, 3, 4).gram
    orders = np.array(list(permutations(range(3))))[:, None]
    each = [project(gram, "pcgrad", order[None])[0] for order in orders]
    np.testing.assert_allclose(project(gram, "pcgrad", orders)[0], np.mean(each, axis=0), atol=1e-12)
