"""Every example runs, and what it leaves can be read."""

import json
import os
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from forks import TRAINING, forks

from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_run, read_status

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(arguments, where):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = forks(*TRAINING).run([*map(str, arguments)], where, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(run_dir):
    """Of `steps`: one a step and task."""
    return sum(pq.read_metadata(part).num_rows for part in part_files(run_dir, "steps"))


def summary(line, where):
    """Run the command that the example printed last."""
    command = line.split()
    assert command[:3] == ["python", "-m", "analysis"]
    return run(command[1:], where)


def test_causal_lm(tmp_path):
    out = run([EXAMPLES / "causal_lm.py", "--steps", 6], tmp_path)
    directory = tmp_path / "runs" / "causal-lm"
    assert read_status(directory).state == "finished"
    assert read_run(directory).task_names == ["repeat", "reverse"]
    assert rows(directory) == 6 * 2
    assert (directory / "adapter" / "adapter_model.safetensors").is_file()
    assert "loss/repeat" in out
    assert "eval_reverse_loss" in out
    told = summary(out.splitlines()[-1], tmp_path)
    assert "finished, step 6 of 6" in told
    assert "reverse" in told


@pytest.mark.parametrize("trainer", ["plain", "sft", "dpo", "qlora"])
def test_watched(tmp_path, trainer):
    if trainer == "qlora":
        pytest.importorskip("bitsandbytes")
    which = ["--nf4"] if trainer == "qlora" else ["--trainer", trainer]
    command = [EXAMPLES / "watched.py", *which, "--steps", 6, "--snapshot-batches", 16]
    out = run(command, tmp_path)
    directory = tmp_path / "runs" / "watched"
    assert read_status(directory).state == "finished"
    assert read_run(directory).task_names == ["repeat", "reverse"]
    assert "cosine/repeat~reverse" in out
    assert "loss/repeat" in out
    told = summary(out.splitlines()[-1], tmp_path)
    assert "reverse" in told
    assert "at steps 2, 5" in told


def test_watched_instructions(tmp_path):
    """Files with labels, rendered as prompts; answers that the training file does not know are left out."""
    words = ["river", "stone", "lamp", "cloud", "violin", "paper", "tiger", "window"]  # that the tiny model knows
    for source, answers in (("colour", ("red", "blue")), ("size", ("small", "large", "huge"))):
        pairs = enumerate(product(words, words))
        lines = [f"{one} {other},{answers[place % len(answers)]}" for place, (one, other) in pairs]
        (tmp_path / f"{source}.train.csv").write_text("\n".join(["what,label", *lines]))
        (tmp_path / f"{source}.validation.csv").write_text("\n".join(["what,label", *lines[:20], "a lamp,-"]))
    given = ["--data", tmp_path, "--sources", "colour", "size", "--steps", 4, "--snapshot-batches", 8]
    out = run([EXAMPLES / "watched.py", "--trainer", "sft", *given], tmp_path)
    directory = tmp_path / "runs" / "watched"
    assert read_run(directory).task_names == ["colour", "size"]
    assert rows(directory) == 4 * 2
    assert "transfer/size->colour" in out
    assert "colour" in summary(out.splitlines()[-1], tmp_path)


@pytest.mark.parametrize("way", [[], ["--mixed"]], ids=["sequential", "mixed"])
def test_own_loop(tmp_path, way):
    out = run([EXAMPLES / "own_loop.py", "--steps", 5, "--record", "runs/mine", *way], tmp_path)
    assert "up: mean squared error" in out
    assert read_status(tmp_path / "runs" / "mine").state == "finished"
    assert rows(tmp_path / "runs" / "mine") == 5 * 2
    assert "finished, step 5 of 5" in summary(out.splitlines()[-1], tmp_path)


SHOWS = """
import ast, json, sys

for number, source in enumerate(json.load(open(sys.argv[1]))):
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), globals())
    shown = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), globals())
assert "cosine of two tasks" in run._repr_html_()
print(json.dumps([list(shown.frame.columns), len(shown.frame), len(shown.figure.data), shown.words]))
"""
"""Runs cells one after another, as a notebook does: what stands last in each is shown."""


def test_notebook(tmp_path):
    """From installing to a picture in ten cells, and no outputs in the repository."""
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    assert len(cells) == 10
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert code[0].startswith("%pip install")
    (tmp_path / "cells.json").write_text(json.dumps(code[1:]))
    out = run(["-c", SHOWS, tmp_path / "cells.json"], tmp_path)
    columns, rows, traces, words = json.loads(out.splitlines()[-1])
    assert {"source", "target", "nats"} <= set(columns)
    assert (rows, traces > 0) == (9, True)
    assert "sort" in words
    assert read_status(tmp_path / "runs" / "notebook").state == "finished"


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"causal_lm.py", "own_loop.py", "watched.py"}
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["notebook.ipynb"]
