"""How long a run would take."""

import pytest

from ortho_lora.errors import OrthoLoraError
from ortho_lora.training.config import load_config
from ortho_lora.training.estimate import Estimate, estimate

SMALL = {"tasks": ["movies", "movies@0.5"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "rank": 2}


@pytest.mark.parametrize(("steps", "every", "evaluations"), [(10, 5, 3), (11, 5, 4), (1, 20, 2), (4, 1, 5)])
def test_total_counts_steps_and_evaluations(steps, every, evaluations):
    found = Estimate(loading=100, step=10, evaluation=1)
    whole = found.total(config := load_config(overrides={"steps": steps, "eval_every": every}))
    assert whole == 100 + 10 * steps + evaluations
    assert found.total(config.model_copy(update={"snapshots": 3, "snapshot_batches": 8})) == whole + 480


@pytest.mark.parametrize("method", ["ortho-lora", "single"])
def test_parts_are_timed_and_nothing_is_left(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = estimate(load_config(overrides=SMALL | {"method": method}))
    assert 0 < found.step < 30
    assert 0 < found.evaluation < 60
    assert found.loading > 0
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_had_is_refused_as_in_training(tmp_path):
    absent = {"name": "absent", "path": str(tmp_path / "absent.csv"), "text": "a", "label": "b"}
    with pytest.raises(OrthoLoraError, match="there is no file"):
        estimate(load_config(overrides=SMALL | {"tasks": [absent]}))
