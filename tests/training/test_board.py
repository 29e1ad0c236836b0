"""`log: tensorboard`: what TensorBoard reads of a run is what the record has."""

import importlib.util

import pyarrow.dataset as ds
import pytest
from interruptions import PowerCutError, content, interrupt
from studies import tiny_model
from typer.testing import CliRunner

from ortho_lora import errors
from ortho_lora.__main__ import app
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.manifest import part_files
from ortho_lora.record.tables import TABLES
from ortho_lora.training.config import load_config
from ortho_lora.training.resume import resume
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
SMALL = {
    "tasks": ["trec", "movies"], "batch_size": 4, "steps": 13, "eval_every": 6, "eval_examples": 8, "max_length": 16,
    "checkpoint_every": 5, "rank": 2, "threads": 1, "log": "tensorboard",
}  # fmt: skip
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return lambda **changes: load_config(overrides=SMALL | {"model": model} | changes)


def table(run_dir, name):
    return ds.dataset(part_files(run_dir, name), schema=TABLES[name]).to_table().to_pandas()


def scalars(run_dir):
    """By name, what TensorBoard shows: value by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / "tensorboard"))
    read.Reload()
    return {tag: {one.step: one.value for one in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


@needs_tensorboard
def test_it_shows_what_the_record_has_and_changes_nothing(settings, tmp_path):
    run = train(settings(), tmp_path, "logged")
    found = scalars(run)
    losses = table(run, "steps").pivot(index="step", columns="task", values="loss")
    for task in ("trec", "movies"):
        assert found[f"loss/{task}"] == pytest.approx({10: losses[task][:10].mean(), 13: losses[task][10:].mean()})
    assert set(found["cosine/trec~movies"]) == set(found["projected/trec"]) == {10, 13}
    metrics = table(run, "metrics").query("split == 'validation'").set_index(["task", "metric", "step"])["value"]
    for task, metric in (("trec", "accuracy"), ("movies", "loss")):
        assert found[f"validation/{task}/{metric}"] == pytest.approx(metrics[task][metric].to_dict())
    assert content(train(settings(log=None), tmp_path, "plain")) == content(run)


@needs_tensorboard
def test_a_run_that_goes_on_shows_no_step_twice(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "_train_step", 12)
        with pytest.raises(PowerCutError):
            train(settings(), tmp_path, "cut")
    found = scalars(resume(tmp_path / "cut"))
    assert list(found["loss/trec"]) == [10, 13]
    assert list(found["validation/trec/accuracy"]) == [0, 6, 12, 13]


def test_where_it_is_missing_that_is_said_before_anything_is_loaded(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    message = (
        "tensorboard is not installed, which the extra 'tensorboard' brings: pip install 'ortho-lora.tensorboard.'"
    )
    with pytest.raises(OrthoLoraError, match=message):
        train(settings(), tmp_path, "x")
    told = CliRunner().invoke(app, ["train", "--log", "tensorboard", "--runs-dir", str(tmp_path), "--name", "x"])
    assert isinstance(told.exception, OrthoLoraError)
    assert "which the extra 'tensorboard' brings" in str(told.exception)
    assert not (tmp_path / "x").exists()
