"""Snapshots of a training: what is drawn, what they add up to, and that a training does not notice them."""

import signal
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interruptions import PowerCutError, content, interrupt
from studies import tiny_model

from ortho_lora.record.products import of_means
from ortho_lora.record.schema import read_status
from ortho_lora.surgery.groups import hashed
from ortho_lora.surgery.snapshot import snapshot_steps
from ortho_lora.tasks.data import Split, take
from ortho_lora.training.config import load_config
from ortho_lora.training.resume import resume
from ortho_lora.training.session import Training, tasks_of
from ortho_lora.training.snapshots import Taking, grouped_batches, rounds
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies", "movies@1"], "batch_size": 4, "steps": 6, "eval_every": 3, "eval_examples": 8,
    "checkpoint_every": 2, "max_length": 16, "rank": 2, "threads": 1, "snapshots": 2, "snapshot_batches": 12,
}  # fmt: skip


def split_of(origins, groups=False):
    texts = [f"text {place}" for place in range(len(origins))] if groups else origins
    return Split(texts, np.arange(len(origins)), groups=list(origins) if groups else None)


@given(
    st.lists(st.sampled_from([f"film {n}" for n in range(40)]), min_size=1, max_size=120),
    st.integers(8, 60),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_batch_lies_inside_one_group_and_examples_come_round_evenly(films, batches, size, once, seed):
    split = split_of(films, groups=True)
    found = grouped_batches(split, batches, size, seed=seed, step=3, groups=8, once=once)
    for indices, group in zip(found.indices, found.groups, strict=True):
        assert 0 < len(indices) <= size
        assert len(set(indices)) == len(indices)
        assert {hashed(films[index], 8, seed) for index in indices} == {group}
    times = Counter(index for indices in found.indices for index in indices)
    if once:
        assert set(times.values()) == {1}
        assert len(found.indices) == batches or len(times) == len(films)
    else:
        assert len(found.indices) == batches
    for group in set(found.groups):
        of_group = [times[index] for index, film in enumerate(films) if hashed(film, 8, seed) == group]
        assert max(of_group) - min(of_group) <= 1
    turns = Counter(found.groups)
    if not once:
        present = {hashed(film, 8, seed) for film in films}
        assert max(turns[group] for group in present) - min(turns[group] for group in present) <= 1


@given(
    st.lists(st.sampled_from([f"film {n}" for n in range(40)]), min_size=1, max_size=120),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 9),
    st.booleans(),
)
def test_fewer_batches_are_the_first_ones_of_more(films, batches, further, size, once):
    split = split_of(films, groups=True)
    few, many = (
        grouped_batches(split, of, size, seed=2, step=0, groups=8, once=once) for of in (batches, batches + further)
    )
    assert (few.indices, few.groups) == (many.indices[:batches], many.groups[:batches])


def test_a_text_is_of_one_group_in_every_task():
    shared = [f"a text {n}" for n in range(50)]
    one, other = split_of(shared), split_of([text.upper() for text in reversed(shared)])
    of_text = []
    for split, step in ((one, 0), (other, 1)):  # and at every place
        found = grouped_batches(split, 64, 4, seed=3, step=step, once=True)
        of_text.append(
            {split.keys[i]: group for of, group in zip(found.indices, found.groups, strict=True) for i in of}
        )
    assert of_text[0] == of_text[1]
    assert len(of_text[0]) == 50


def test_they_are_spread_over_a_run_and_none_at_its_end():
    assert snapshot_steps(200, 4) == [25, 75, 125, 175]
    assert snapshot_steps(7, 2) == [2, 6]
    assert snapshot_steps(2, 5) == [1, 2]
    assert snapshot_steps(1, 1) == [1]
    assert snapshot_steps(9, 0) == []


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return lambda **changes: load_config(overrides=SMALL | {"model": model} | changes)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run with two snapshots."""
    return train(config(), tmp_path_factory.mktemp("runs"), "whole")


@pytest.mark.parametrize("changes", [{"method": "single"}, {"tasks": ["trec"]}])
def test_there_is_none_where_no_two_tasks_share_an_adapter(config, tmp_path, changes, caplog):
    found = train(config(steps=1, **changes), tmp_path, "alone")
    assert not content(found)[1]["snapshots"]
    assert "no snapshots: no two tasks share an adapter" in caplog.text


def test_a_training_does_not_notice_them(config, whole, tmp_path):
    _, tables, tensors = content(whole)
    _, without, same = content(train(config(snapshots=0), tmp_path, "without"))
    assert {row["step"] for row in tables["snapshots"]} == {row["step"] for row in tables["snapshot_tasks"]} == {2, 5}
    assert not without.pop("snapshots") + without.pop("snapshot_tasks") + without.pop("vectors") + without.pop("texts")
    assert {name: rows for name, rows in tables.items() if name in without} == without
    assert tensors == same


def test_it_is_that_of_autograd(config, whole):
    """Of the run's last checkpoint, from whole vectors."""
    settings = config(dropout=0.0)
    training = training_at(whole, settings)
    found = training.snapshot(12, 5, lambda: None)
    blocks = training.groups[0].surgeon.blocks
    means, held = (
        torch.stack([group_means(training, place, split, once) for place, split in enumerate(splits)], dim=1).numpy()
        for once, splits in (
            (False, [task.train for task in training.tasks]),
            (True, [task.evaluation["validation"] for task in training.tasks]),
        )
    )
    sizes = [block.parameter.numel() for block in blocks]
    of_blocks = (np.split(of, np.cumsum(sizes)[:-1], axis=2) for of in (means, held))
    for index, (of_block, of_held) in enumerate(zip(*of_blocks, strict=True)):
        scale = np.abs(found.products["plain"][:, index]).max()
        np.testing.assert_allclose(found.products["plain"][:, index], of_means(of_block), atol=1e-5 * scale)
        scale = np.abs(found.held_out["plain"][:, index]).max()
        np.testing.assert_allclose(found.held_out["plain"][:, index], of_means(of_held, of_block), atol=1e-5 * scale)


def training_at(run_dir, settings):
    training = Training(settings, tasks_of(settings), lambda status: None, threading.Event())
    training.restore(run_dir)
    return training


def group_means(training, place, split, once):
    """Mean gradient over each group's batches, all blocks in a row, [m, D]; NaN where there is none."""
    grouped = grouped_batches(split, 12, training.config.batch_size, seed=5, step=6, once=once)
    name, parameters = training.tasks[place].name, [b.parameter for b in training.groups[0].surgeon.blocks]
    order, loss = list(dict.fromkeys(grouped.groups)), training.passes.loss
    rows = []
    for group in order:
        of_group = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss(name, (split, indices)), parameters)])
            for indices, of in zip(grouped.indices, grouped.groups, strict=True)
            if of == group
        ]
        rows.append(torch.stack(of_group).mean(0).double())
    return torch.stack(rows)


def test_one_of_a_run_is_that_of_its_checkpoint(config, tmp_path):
    run = train(config(steps=1), tmp_path, "one")
    training = training_at(run, config(steps=1))
    expected = training.snapshot(12, 0, lambda: None).tables(1)["snapshots"].to_pylist()
    assert content(run)[1]["snapshots"] == expected


def test_held_out_texts_can_be_left_out_or_be_few(config, whole):
    training = training_at(whole, config())
    every, none, few = (training.snapshot(9, 3, lambda: None, held_out) for held_out in (None, 0, 2))
    assert (none.targets, few.targets) == ((), every.targets)
    assert few.target_batches.tolist() == [2, 2, 2]
    for other in (none, few):
        scale = np.abs(every.products["plain"]).max()
        np.testing.assert_allclose(other.products["plain"], every.products["plain"], atol=1e-6 * scale)
    turns = [turn for of_round in rounds(training.tasks, 1, 4, seed=3, step=6, held_out=3) for turn in of_round]
    assert [turn.held_out for turn in turns].count(True) == 9
    assert not table_of_targets(none)
    assert table_of_targets(few)


def table_of_targets(snapshot):
    return [row for row in snapshot.tables(0)["snapshots"].to_pylist() if row["target"]]


def test_it_does_not_matter_in_which_order_batches_of_different_tasks_are_taken(config, whole):
    """With dropout, so each batch needs random numbers of its own."""
    training = training_at(whole, config())
    assert training.config.dropout > 0
    expected = training.snapshot(9, 3, lambda: None)
    turns = [turn for of_round in rounds(training.tasks, 9, 4, seed=3, step=6) for turn in of_round]
    assert [turn.held_out for turn in turns[:6]] == [False] * 3 + [True] * 3
    torch.manual_seed(17)
    with training.taking(3) as taking:
        for turn in sorted(turns, key=lambda turn: (turn.name, turn.held_out, turn.number)):
            taking.take(turn)
        found = taking.taker.look()
    for name in ("snapshots", "snapshot_tasks"):
        assert found.tables(6)[name].equals(expected.tables(6)[name])
    other = training.snapshot(9, 4, lambda: None).tables(6)["snapshots"]
    assert not other.equals(expected.tables(6)["snapshots"])


def test_dropout_differs_from_batch_to_batch(config, whole):
    training = training_at(whole, config(dropout=0.5))
    ((first, *_), *_) = rounds(training.tasks, 1, 4, seed=0, step=6)
    losses = []
    with training.taking(0) as taking:
        for number in (0, 0, 1):
            taking.take(first._replace(number=number))
        losses = taking.taker.settle()
    assert losses[0] == losses[1] != losses[2]


def test_a_kill_amid_one_loses_it_alone_and_a_resume_takes_it_again(config, whole, tmp_path, monkeypatch):
    plain, begun, calls = Taking.take, [], Counter()

    def fail(self, turn):
        if self not in begun:
            begun.append(self)
        calls[begun.index(self)] += 1
        if calls[1] == 20:
            raise PowerCutError
        plain(self, turn)

    with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
        patch.setattr(Taking, "take", fail)
        train(config(), tmp_path, "cut")
    assert {row["step"] for row in content(tmp_path / "cut")[1]["snapshots"]} == {2}
    resume(tmp_path / "cut")
    assert content(tmp_path / "cut")[0] == content(whole)[0]


def test_one_that_a_checkpoint_follows_is_kept_with_all_its_tables(config, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
        interrupt(patch, "_train_step", 3)
        train(config(), tmp_path, "cut")
    resume(tmp_path / "cut")
    assert content(tmp_path / "cut")[0] == content(whole)[0]


def test_who_stops_amid_one_stops_at_once_and_it_is_taken_later(config, whole, tmp_path):
    def stop(status):
        if status.step == 2 and status.phase == "snapshot":
            signal.raise_signal(signal.SIGINT)

    train(config(), tmp_path, "stopped", report=stop)
    assert (read_status(tmp_path / "stopped").state, read_status(tmp_path / "stopped").step) == ("stopped", 2)
    assert not content(tmp_path / "stopped")[1]["snapshots"]
    resume(tmp_path / "stopped")
    assert content(tmp_path / "stopped")[0] == content(whole)[0]


def test_examples_keep_what_they_are_of():
    split = split_of(["film 1", "film 2", "film 1"], groups=True)
    assert take(split, [2, 1]).origins == ["film 1", "film 2"]
    assert split_of(["A text", "a  TEXT"]).origins == ["a text", "a text"]
