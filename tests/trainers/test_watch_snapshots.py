"""Snapshots that a watched trainer takes of its own data."""

import pytest
import torch
from mixtures import collate, made, mixed
from texts import adapter, table, trains_as_without

from ortho_lora import OrthoLoraError, Recorder, watch
from ortho_lora.surgery.groups import hashed
from ortho_lora.trainers.mixture import task_column
from ortho_lora.trainers.snapshots import Rows, draw, held_out_rows

TASKS = ["chat", "code", "qa"]


def logged(entry, prefix):
    return {name: value for name, value in entry.items() if name.startswith(prefix)}


def test_the_training_does_not_notice(tmp_path):
    data, held_out = mixed(240), mixed(120, seed=5)
    alone = made(tmp_path / "alone", data, eval_dataset=held_out)
    watched = made(tmp_path / "watched", data, eval_dataset=held_out)
    watch(watched, "source", snapshots=2, snapshot_batches=32, recorder=Recorder(tmp_path / "run"))
    trains_as_without(alone, watched)
    assert sorted({row["step"] for row in table(tmp_path / "run", "snapshots")}) == [2, 5]
    assert {row["target"] for row in table(tmp_path / "run", "snapshots")} == {False, True}
    entries = [entry for entry in watched.state.log_history if "loss" in entry]
    assert [len(logged(entry, "transfer/")) for entry in entries] == [0, 9, 9]  # logged every second step
    assert "transfer/qa->code" in entries[1]


def test_its_losses_are_those_of_the_rows_that_it_drew(tmp_path):
    """At one place, without dropout; a task weighs what it has of the labels."""
    data = mixed(96)
    watched = made(tmp_path / "out", data, max_steps=1, logging_steps=1)
    watch(watched, "source", snapshots=1, snapshot_batches=32, recorder=Recorder(tmp_path / "run"))
    for module in watched.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    seen = []
    plain = watched._loss_of
    watched._loss_of = lambda name, rows: seen.append((name, rows, plain(name, rows))) or seen[-1][2]
    before = adapter(watched.model)
    watched.take_snapshot_if_due = lambda take=watched.take_snapshot_if_due: [
        setattr(watched.state, "max_steps", 1), setattr(watched.state, "global_step", 1), take(),
        setattr(watched.state, "global_step", 0),
    ]  # fmt: skip
    watched.train()
    now = adapter(watched.model)
    watched.model.load_state_dict(before, strict=False)
    assert len(seen) == 3 * 32
    for name, rows, loss in seen[::7]:
        assert {row["source"] for row in rows} == {name}
        keep = [{key: row[key] for key in ("input_ids", "labels")} for row in rows]
        assert watched.model(**collate(keep)).loss.item() == pytest.approx(loss.item(), rel=1e-6)
    counted = dict.fromkeys(TASKS, 0)
    for row in data:
        counted[row["source"]] += sum(label != -100 for label in row["labels"])
    shares = {task: count / sum(counted.values()) for task, count in counted.items()}
    assert watched.surgeon.loss_weights == pytest.approx(shares)
    assert any(not now[name].equal(before[name]) for name in now)


def test_a_batch_is_of_one_task_and_of_one_group_of_texts():
    data = mixed(300)
    column = task_column(data, "source", None)
    rows = Rows(data, column)
    found = draw({task: (rows, place) for place, task in enumerate(TASKS)}, 40, 4, seed=3, step=0)
    for task in TASKS:
        assert len(found.batches[task]) == len(found.groups[task]) == 40
        for batch, group in zip(found.batches[task], found.groups[task], strict=True):
            assert {row["source"] for row in batch} == {task}
            assert {hashed(str(row["input_ids"]), 32, 3) for row in batch} == {group}
    again = draw({"qa": (rows, 2)}, 40, 4, seed=3, step=1)
    assert again.batches["qa"] != found.batches["qa"]
    once = draw({"qa": (rows, 2)}, 400, 4, seed=3, step=0, held_out=True).batches["qa"]
    assert sum(map(len, once)) == sum(source == "qa" for source in data["source"])


def test_what_rows_are_of_may_be_told_by_a_column():
    data = mixed(300)
    data = data.add_column("film", [f"film {row % 40}" for row in range(len(data))])
    rows = Rows(data, task_column(data, "source", None), group_column="film")
    found = draw({task: (rows, place) for place, task in enumerate(TASKS)}, 40, 4, seed=3, step=0)
    for task in TASKS:
        for batch, group in zip(found.batches[task], found.groups[task], strict=True):
            assert {hashed(row["film"], 32, 3) for row in batch} == {group}
    with pytest.raises(
        OrthoLoraError, match=r"group_column: 'films' given, and the data has input_ids, labels, source"
    ):
        Rows(data, task_column(data, "source", None), group_column="films")


def test_held_out_texts_come_with_the_column_or_by_tasks():
    data = mixed(60)
    column = task_column(data, "source", None)
    assert set(held_out_rows(data, column)) == set(TASKS)
    assert set(held_out_rows({"qa": data.remove_columns("source"), "else": data}, column)) == {"qa"}
    assert held_out_rows(data.remove_columns("source"), column) == {}
    assert held_out_rows(None, column) == {}


def test_what_has_no_rows_to_draw_is_refused(tmp_path):
    trainer = made(tmp_path, mixed().to_iterable_dataset())
    with pytest.raises(OrthoLoraError, match=r"snapshots: the training data is a stream, of which nobody can draw"):
        watch(trainer, "source", tasks=TASKS, snapshots=1)
    with pytest.raises(OrthoLoraError, match=r"snapshot_batches: 4 given, expected a whole number of at least 8"):
        watch(made(tmp_path), "source", snapshots=1, snapshot_batches=4)
