"""What the README shows is what the program does."""

import re
import shlex
from pathlib import Path

import torch
import yaml
from models import Problem, tiny_bert
from typer.testing import CliRunner

from analysis.__main__ import app as analysis_app
from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.config import load_config
from ortho_lora.methods import METHODS, RULES

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language, containing):
    (found,) = (code for code in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in code)
    return found


def test_the_three_lines_in_a_loop_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = Problem(tiny_bert(), [4, 4])

    def losses_by_task(output):
        states = output.last_hidden_state.split(4)
        return {"mnli": problem.error(0, states[0]), "qqp": problem.error(1, states[1])}

    given = {
        "peft_model": problem.model,
        "loss_a": problem.loss(0),
        "loss_b": problem.loss(1),
        "optimizer": torch.optim.SGD(problem.model.parameters(), lr=1e-3),
        "task_of_example": ["mnli"] * 4 + ["qqp"] * 4,
        "batch": {"input_ids": torch.cat(problem.tokens)},
        "losses_by_task": losses_by_task,
    }
    exec(blocks("python", "OrthoLoRA"), given)
    assert given["surgeon"].step == 2
    assert (tmp_path / "runs" / "mine" / "run.json").exists()


def test_the_record_is_read_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    problem = Problem(tiny_bert(), [4, 4])
    with Recorder("runs/demo") as recorder:
        surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
        surgeon.backward(problem.losses())
    exec(blocks("python", "import pandas"), {})
    exec(blocks("python", "import duckdb"), {})
    printed = capsys.readouterr().out
    assert "cos_before" in printed
    assert "conflict_rate" in printed


def test_the_record_is_exported_and_reported_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = Problem(tiny_bert(), [4, 4])
    problem.tasks = ["movies", "movies-flip0.7"]
    for run in ("demo", "joint", "mine"):
        with Recorder(f"runs/{run}") as recorder:
            surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
            surgeon.backward(problem.losses())
    shown = re.findall(r"python -m analysis ((?:export|report) [^|#\n]*)", README)
    assert len(shown) == 5
    for command in shown:
        done = CliRunner().invoke(analysis_app, shlex.split(command))
        assert done.exit_code == 0, (command, done.stderr)
    made = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert made == {"mine-report.html", "mine-export", "layers.parquet", "compared.html"}


def test_the_configuration_shown_is_valid():
    config = load_config(overrides=yaml.safe_load(blocks("yaml", "# mine.yaml")))
    assert [task.name for task in config.tasks] == ["trec", "sst2", "stars", "entails"]


def test_every_rule_is_named():
    assert all(f"`{rule}`" in README for rule in RULES)
    assert all(method.removesuffix("-a").removesuffix("-b") in README for method in METHODS)
