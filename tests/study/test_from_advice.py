"""`ortho-lora study --from-advice RUN` from a real run and its snapshot to what the study says, with a tiny model."""

import subprocess
import sys

import pytest
import yaml
from studies import tiny_model, tiny_tasks
from waiting import PATIENCE, wait_for

from analysis.study.findings import find
from app.launching import launcher
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import read_ticket
from ortho_lora.record.schema import read_run
from ortho_lora.record.study import is_study, read_study
from ortho_lora.training.config import load_config
from ortho_lora.training.train import train

SMALL = {
    "batch_size": 4, "max_length": 16, "rank": 2, "eval_examples": 24, "eval_every": 1000, "steps": 6, "threads": 1,
    "snapshots": 1, "snapshot_batches": 32, "snapshot_held_out": 16, "learning_rate": 5e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tasks = [*tiny_tasks(path), {"name": "twin", "twin_of": "even", "rho": 1.0}]
    config = load_config(overrides=SMALL | {"model": tiny_model(path / "model"), "tasks": tasks})
    return train(config, path / "runs", "mine")


def study(run, *options):
    command = [sys.executable, "-m", "ortho_lora", "study", "--from-advice", str(run), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_from_a_snapshot_to_what_came_of_its_advice(run):
    planned = study(run, "--plan")
    assert planned.returncode == 0, planned.stderr
    folder = run.parent / "mine-advice"
    assert not folder.exists()
    text = planned.stdout[: planned.stdout.index("\n\n")]
    file = yaml.safe_load(text)
    assert "snapshots" not in file["base"]
    # Fewer runs than are planned, as anybody may have it.
    groups = file["advice"]["groups"]
    kept = ("joint", groups, "random-groups-1")
    file["methods"] = [of for of in file["methods"] if (of if isinstance(of, str) else next(iter(of))) in kept]
    file["seeds"] = [0]
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(file))

    done = study(run)
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'study.yaml'}: goes on with what stands there" in done.stderr
    found = read_study(folder)
    assert (found.phase, found.advice.run, len(found.uses)) == ("done", "mine", 3)
    trained = {use.cell.method: read_run(folder / use.run_id) for use in found.uses}
    assert trained["joint"].groups is None
    assert sorted(map(len, trained[groups].groups)) == [1, 2]
    assert sorted(map(len, trained["random-groups-1"].groups)) == [1, 2]
    assert trained[groups].groups != trained["random-groups-1"].groups
    shown = find(folder)
    assert set(shown.advice["method"]) == {groups, "random-groups-1"}
    assert shown.advice["loss"].notna().all()
    assert shown.sentences[0].startswith("Advice of run mine: ")
    assert "random groups of the same sizes (1 seed: too few to tell it from noise)" in " ".join(shown.sentences)


def test_without_a_snapshot_it_says_what_to_do(run, tmp_path):
    settings = read_run(run).config | {"snapshots": 0, "steps": 1}
    bare = train(load_config(overrides=settings), tmp_path, "bare")
    done = study(bare)
    assert done.returncode == 2
    assert f"error: {bare}: no snapshot of it has held-out texts" in done.stderr
    assert not (tmp_path / "bare-advice").exists()


def test_a_study_that_was_launched_waits_like_a_run_and_stops_when_asked(run, monkeypatch):
    """As the button of the first page does it."""
    runs_dir = run.parent
    name = launcher.name_of_trial("mine")
    monkeypatch.setattr(launcher, "name_of_trial", lambda run_id: f"{name}-2")  # the one above is done
    assert launcher.try_advice(run) == f"{name}-2"
    assert [(one.run_id, one.state) for one in launcher.launches(runs_dir)] in (
        [(f"{name}-2", "queued")], [(f"{name}-2", "starting")]
    )  # fmt: skip
    with pytest.raises(OrthoLoraError, match="waits or starts already"):
        launcher.try_advice(run)
    folder = runs_dir / f"{name}-2"
    wait_for(lambda: is_study(folder) and any(folder.glob("*/run.json")))
    assert launcher.launches(runs_dir) == []  # its own page shows it
    ticket = read_ticket(runs_dir, folder.name)
    assert ticket.started
    assert launcher.stop(runs_dir, folder.name)
    wait_for(lambda: not read_ticket(runs_dir, folder.name).alive)
    for child in launcher._children:
        child.wait(timeout=PATIENCE)
    assert read_study(folder).phase == "reporting"
    assert launcher.launches(runs_dir) == []
