"""A record holds one training: another is refused, and the same one goes on where it was."""

import pyarrow.parquet as pq
import pytest
import torch
from infos import INFO
from models import Problem, tiny_bert

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder
from ortho_lora.record.admission import lock_run
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status


class Training:
    """A loop of the user's own on a tiny model."""

    def __init__(self, recorder, *, seed=0, tasks=None, **given):
        self.problem = Problem(tiny_bert(seed), [4, 4])
        self.problem.tasks = tasks or self.problem.tasks
        self.optimizer = torch.optim.SGD(self.problem.model.parameters(), lr=0.1)
        self.surgeon = OrthoLoRA(self.problem.model, self.problem.tasks, recorder=recorder, **given)

    def run(self, steps):
        for _ in range(steps):
            self.surgeon.backward(self.problem.losses())
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def again(self, recorder, state):
        """A surgeon made again on the same model, as after a restart."""
        self.surgeon.remove()
        self.surgeon = OrthoLoRA(self.problem.model, self.problem.tasks, recorder=recorder)
        self.surgeon.load_state_dict(state)
        return self


def table(run_dir, name="steps", without="seconds"):
    rows = [row for part in part_files(run_dir, name) for row in pq.read_table(part).to_pylist()]
    return [{key: value for key, value in row.items() if key != without} for row in rows]


def test_a_second_training_on_one_recorder_is_refused_and_the_first_stays_as_it_is(tmp_path):
    with Recorder(tmp_path / "run") as recorder:
        Training(recorder).run(30)
        second = Training(recorder)
        with pytest.raises(OrthoLoraError, match="step 0 given, and .*run holds steps to 29 already: give another"):
            second.run(1)
    assert read_status(tmp_path / "run").state == "finished"
    alone = Recorder(tmp_path / "alone")
    Training(alone).run(30)
    alone.close()
    for name in ("steps", "pairs", "norms"):
        assert table(tmp_path / "run", name) == table(tmp_path / "alone", name)


OTHERS = {
    "tasks": ({"tasks": ["a", "x"]}, r"whose tasks differ \(there a x 1, b x 1, here a x 1, x x 1\)"),
    "loss weights": ({"loss_weights": {"b": 2.0}}, r"whose tasks differ \(there a x 1, b x 1, here a x 1, b x 2\)"),
    "method": ({"method": "joint"}, r"whose method differ \(there ortho-lora, here joint\)"),
    "order": ({"order": "fixed"}, "whose settings differ"),
    "seed": ({}, r"whose seed differ \(there 0, here 1\)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_in_words(tmp_path, name):
    given, message = OTHERS[name]
    with Recorder(tmp_path / "run") as recorder:
        Training(recorder).run(1)
        problem = Problem(tiny_bert(), [4, 4])
        tasks, given = given.get("tasks", problem.tasks), {k: v for k, v in given.items() if k != "tasks"}
        with pytest.raises(
            OrthoLoraError, match=f"is the record of another training, {message}.*a Recorder of its own"
        ):
            OrthoLoRA(problem.model, tasks, recorder=recorder, seed=int(name == "seed"), **given)


def test_another_model_is_refused(tmp_path):
    with Recorder(tmp_path / "run") as recorder:
        Training(recorder).run(1)
        with pytest.raises(OrthoLoraError, match="another training, whose layers differ: give"):
            OrthoLoRA(tiny_bert(layers=3), ["a", "b"], recorder=recorder)


@pytest.mark.parametrize("closed", [False, True])
def test_a_surgeon_that_is_made_again_goes_on(tmp_path, closed):
    whole = Recorder(tmp_path / "whole")
    Training(whole).run(9)
    whole.close()
    recorder = Recorder(tmp_path / "run", flush_seconds=0)
    training = Training(recorder).run(5)
    state = training.surgeon.state_dict()
    if closed:
        recorder.close()
    training.again(recorder, state).run(4)
    recorder.close()
    for name in ("steps", "pairs", "norms"):
        assert table(tmp_path / "run", name) == table(tmp_path / "whole", name)
    assert read_status(tmp_path / "run").state == "finished"


def test_going_back_to_a_checkpoint_drops_what_came_after_it(tmp_path):
    recorder = Recorder(tmp_path / "run", flush_seconds=0)
    training = Training(recorder).run(3)
    state = training.surgeon.state_dict()
    kept = {name: value.clone() for name, value in training.problem.model.state_dict().items()}
    training.run(4)
    recorder.close("failed", "power cut")
    expected = {name: table(tmp_path / "run", name) for name in ("steps", "pairs", "norms")}
    training.problem.model.load_state_dict(kept)
    resumed = Recorder(tmp_path / "run", resume=True, total=7)
    training.again(resumed, state).run(4)
    resumed.close()
    assert {name: table(tmp_path / "run", name) for name in expected} == expected
    status = read_status(tmp_path / "run")
    assert (status.state, status.message, status.step, status.total) == ("finished", "", 7, 7)


def test_a_run_that_is_not_gone_on_with_stays_as_it_ended(tmp_path):
    with Recorder(tmp_path / "run") as recorder:
        Training(recorder).run(2)
    before = (tmp_path / "run" / "status.json").read_bytes()
    resumed = Recorder(tmp_path / "run", resume=True)
    with pytest.raises(OrthoLoraError, match="step 0 given, and .*run holds steps to 1 already"):
        Training(resumed).run(1)
    resumed.close()
    assert (tmp_path / "run" / "status.json").read_bytes() == before
    assert len(table(tmp_path / "run")) == 4
    lock_run(tmp_path / "run").release()  # nothing holds it


def test_with_resume_a_run_that_is_not_there_begins(tmp_path):
    with Recorder(tmp_path / "run", resume=True) as recorder:
        Training(recorder).run(2)
    assert len(table(tmp_path / "run")) == 4
    with pytest.raises(OrthoLoraError, match="run 'run' exists"):
        Recorder(tmp_path / "run")


def test_steps_that_do_not_increase_are_refused_where_rows_enter(tmp_path):
    recorder = Recorder(tmp_path / "x")
    recorder.begin(INFO)
    row = {"loss": 1.0, "learning_rate": 0.1, "seconds": 0.1, "order": 0}
    recorder.add("steps", step=3, task=["a"], **row)
    recorder.add("steps", step=3, task=["b"], **row)  # as where each task has an adapter of its own
    for step, task in ((3, "a"), (2, "a")):
        with pytest.raises(OrthoLoraError, match=f"step {step} given, and .*x holds steps to 3 already"):
            recorder.add("steps", step=step, task=[task], **row)
    recorder.add("metrics", step=4, split="validation", task="a", metric="loss", value=[1.0], examples=1)
    recorder.add("metrics", step=4, split="validation", task="b", metric="loss", value=[1.0], examples=1)
    with pytest.raises(OrthoLoraError, match="step 3 given, and .*x holds steps to 4 already"):
        recorder.add("metrics", step=3, split="validation", task="a", metric="loss", value=[1.0], examples=1)
    recorder.close()
    assert [(row["step"], row["task"]) for row in table(tmp_path / "x")] == [(3, "a"), (3, "b")]
