"""Runs that are interrupted and go on equal runs that never were, bit for bit."""

import errno
import json
import os
import signal

import pyarrow.dataset as ds
import pytest
from interruptions import PowerCutError, content, interrupt
from studies import tiny_model

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.record.admission import lock_run
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status
from ortho_lora.training import checkpoint
from ortho_lora.training.config import load_config
from ortho_lora.training.resume import resume
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies"],
    "batch_size": 4,
    "steps": 7,
    "eval_every": 3,
    "eval_examples": 8,
    "checkpoint_every": 2,
    "max_length": 16,
    "rank": 2,
    "warmup_steps": 1,
    "threads": 1,
    "flush_rows": 20,  # a part holds several steps, and a checkpoint falls between two
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """That of a run of a tiny model: config(**changes)."""
    model = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return lambda **changes: load_config(overrides=SMALL | {"model": model} | changes)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """What a run leaves that was never interrupted."""
    return content(train(config(), tmp_path_factory.mktemp("runs"), "whole"))


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "gradvac"}, {"method": "single"}], ids=["ortho", "gradvac", "single"]
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, settings, config, whole):
    if settings:
        whole = content(train(config(**settings), tmp_path, "whole"))
    assert {row["step"] for row in whole[1]["norms"]} == set(range(7))
    assert whole[2]
    for method, at in (("_train_step", 5), ("_evaluate", 6))[: 1 if settings else 2]:
        name = f"cut{method}"
        with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
            interrupt(patch, method, at)
            train(config(**settings), tmp_path, name)
        assert read_status(tmp_path / name).state == "failed"
        resume(tmp_path / name)
        assert read_status(tmp_path / name).state == "finished"
        assert content(tmp_path / name)[0] == whole[0]
        assert not list((tmp_path / name).rglob(".*"))


def test_a_run_that_was_asked_to_stop_goes_on_where_it_stopped(tmp_path, config, whole):

    def stop(status):
        if status.step == 5 and status.phase == "training":
            signal.raise_signal(signal.SIGINT)

    train(config(checkpoint_every=100), tmp_path, "stopped", report=stop)
    assert (read_status(tmp_path / "stopped").state, read_status(tmp_path / "stopped").step) == ("stopped", 5)
    resume(tmp_path / "stopped")
    assert content(tmp_path / "stopped")[0] == whole[0]
    assert "resumed from the checkpoint after step 5" in (tmp_path / "stopped" / "log.txt").read_text()


@pytest.fixture
def mine(tmp_path, monkeypatch, config):
    """A run on a file of the user's own, interrupted at step 3, and its file."""
    data = tmp_path / "mine.csv"
    data.write_text("\n".join(["text,label"] + [f"word {n},{n % 2}" for n in range(60)]))
    tasks = ["trec", {"name": "mine", "path": str(data), "text": "text", "label": "label"}]
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
        interrupt(patch, "_train_step", 3)
        train(config(tasks=tasks), tmp_path, "mine")
    return tmp_path / "mine", data


def test_what_cannot_go_on_is_refused_in_words_and_left_alone(tmp_path, mine):
    run, data = mine

    def files():
        return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    before = files()
    lock = lock_run(run)
    with pytest.raises(OrthoLoraError, match="another process is writing this run: wait for its end, or stop it."):
        resume(run)
    lock.release()

    former = data.read_text()
    data.write_text(former.replace("word 7,1", "word 7,0"))
    with pytest.raises(OrthoLoraError, match="data are not those that the run was trained on, .* bring the former"):
        resume(run)
    data.write_text(former)

    state = run / "checkpoint" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OrthoLoraError, match=r"state\.pt: cannot be read as a checkpoint"):
        resume(run)
    state.unlink()
    with pytest.raises(OrthoLoraError, match="there is no checkpoint to go on from"):
        resume(run)
    state.write_bytes(whole)
    assert files() == before

    with pytest.raises(OrthoLoraError, match="not a run"):
        resume(tmp_path / "absent")
    identity = json.loads((run / "run.json").read_text())
    identity["versions"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(identity))
    with pytest.warns(OrthoLoraWarning, match="torch is .* now and was 1.0: the run may go on a little differently"):
        resume(run)
    with pytest.raises(OrthoLoraError, match="the run is finished: there is nothing to go on with"):
        resume(run)


def test_a_run_of_before_there_were_predictions_goes_on(tmp_path, monkeypatch, config):
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
        interrupt(patch, "_train_step", 5)
        train(config(), tmp_path, "old")
    (tmp_path / "old" / "predictions").rmdir()
    before = read_status(tmp_path / "old").peak_memory_bytes
    resume(tmp_path / "old")
    assert len(ds.dataset(part_files(tmp_path / "old", "predictions")).to_table()) == 2 * 8
    assert read_status(tmp_path / "old").peak_memory_bytes >= before


def test_without_checkpoints_none_is_written(tmp_path, config):
    run = train(config(checkpoint_every=None, steps=2), tmp_path, "x")
    assert not (run / "checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_fails_in_words_and_leaves_the_one_before(tmp_path, monkeypatch, config):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plain = checkpoint.Checkpoint.save

    def save(self, run_dir, place, losses):
        with monkeypatch.context() as patch:
            if place.step == 4:
                patch.setattr(checkpoint.os, "fsync", full)
            plain(self, run_dir, place, losses)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "save", save)
        with pytest.raises(OrthoLoraError, match="state.pt: the checkpoint cannot be written .No space left on device"):
            train(config(), tmp_path, "x")
    assert [path.name for path in (tmp_path / "x" / "checkpoint").iterdir()] == ["state.pt"]
    resume(tmp_path / "x")
    assert "resumed from the checkpoint after step 2" in (tmp_path / "x" / "log.txt").read_text()
