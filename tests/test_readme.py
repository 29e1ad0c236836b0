"""What the README shows is what the program does."""

import os
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from forks import TRAINING, forks
from models import Problem, tiny_bert
from test_boundaries import FLOORS
from typer.testing import CliRunner

from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.command import joint
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status
from ortho_lora.surgery.methods import METHODS, RULES
from ortho_lora.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
README, DISTRIBUTED = DOCUMENTS["README.md"], DOCUMENTS["distributed.md"]


FOLDERS = ("ortho_lora", "analysis", "app", "tests", "benchmarks", "examples", "docs")


def named(text):
    """Files, folders and modules of the project that a text names, with the name within them, if any, that it means."""
    start = rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})"
    for path, name in re.findall(rf"({start}/[\w./-]*\w/?)(?:::(\w+))?", text):
        yield ROOT / path, name
    for dotted in re.findall(rf"{start}(?:\.\w+)+", text):
        parts = dotted.split(".")
        tops = [ROOT.joinpath(*parts[:n]) for n in range(len(parts), 0, -1)]
        top = next(one for one in tops if one.is_dir() or one.with_suffix(".py").is_file())
        rest = parts[len(top.relative_to(ROOT).parts) :]
        yield (top / "__init__.py" if top.is_dir() else top.with_suffix(".py")), "".join(rest[:1])


def test_every_file_and_name_of_the_documentation_is_there():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [(document.name, *one) for document in documents for one in named(document.read_text())]
    assert len(found) > 100
    missing = [
        (document, str(path), name)
        for document, path, name in found
        if not path.exists() or (name and not re.search(rf"\b{name}\b", path.read_text()))
    ]
    assert not missing


def test_the_floors_shown_are_those_that_are_proved():
    shown = DOCUMENTS["architecture.md"]
    for top, floors in FLOORS.items():
        (line,) = re.findall(rf"^\| `{top}` \| (.*) \|$", shown, re.M)
        told = [set(re.findall(r"`(\w+)`", floor)) for floor in line.split(";")]
        assert told == [floor for floor in floors if not floor & {"__main__", "command"}]


def blocks(language, containing, text=README):
    """The one block that contains this, or all of them."""
    found = [code for code in re.findall(rf"```{language}\n(.*?)```", text, re.S) if containing in code]
    return found[0] if len(found) == 1 else found


PREAMBLE = """
import sys
sys.path[:0] = {path!r}
import torch
from models import Problem, tiny_bert
from ortho_lora import OrthoLoRA, Recorder

torch.manual_seed(0)
problem = Problem(tiny_bert(), [4, 4])
peft_model = model = problem.model
tasks = problem.tasks = ["mnli", "qqp"]
optimizer = torch.optim.SGD(problem.model.parameters(), lr=1e-3)
"""


def execute(where, code, launcher=()):
    """Run code of the documentation in a process of its own, which ends as any does."""
    (where / "shown.py").write_text(PREAMBLE.format(path=[str(ROOT), str(ROOT / "tests")]) + code)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = forks(*TRAINING).run([*launcher, "shown.py"], where, environment)
    assert done.returncode == 0, done.stdout + done.stderr


def rows(run_dir, table):
    return sum(pq.read_metadata(part).num_rows for part in part_files(run_dir, table))


def check_record(run_dir, steps):
    status = read_status(run_dir)
    assert (status.state, status.step, status.message) == ("finished", steps, "")
    assert rows(run_dir, "steps") == 2 * steps
    of_step = len(Problem(tiny_bert(), [4, 4]).blocks)
    assert (rows(run_dir, "pairs"), rows(run_dir, "norms")) == (of_step * steps, 2 * of_step * steps)


GIVEN = """
loader = [(0, 1)] * 50
loss_a = loss_b = problem.loss
"""


def test_the_loop_of_ones_own_leaves_every_row(tmp_path):
    execute(tmp_path, GIVEN + blocks("python", "loss_a"))
    check_record(tmp_path / "runs" / "mine", 50)


def test_without_with_it_leaves_every_row_too(tmp_path):
    shown = blocks("python", "loss_a").replace('with Recorder("runs/mine") as recorder:', "if True:")
    assert "with" not in shown
    execute(tmp_path, GIVEN + shown.replace("recorder=recorder", 'recorder=Recorder("runs/mine")'))
    check_record(tmp_path / "runs" / "mine", 50)


def test_the_mixed_batch_is_taken_as_shown(tmp_path):
    given = """
recorder = Recorder("runs/mine")
surgeon = OrthoLoRA(peft_model, tasks, recorder=recorder)
task_of_example = ["mnli"] * 4 + ["qqp"] * 4
batch = {"input_ids": torch.cat(problem.tokens)}

def losses_by_task(output):
    states = output.last_hidden_state.split(4)
    return {"mnli": problem.error(0, states[0]), "qqp": problem.error(1, states[1])}

"""
    execute(tmp_path, given + blocks("python", "mixed_batch"))
    check_record(tmp_path / "runs" / "mine", 1)


def test_the_snapshot_is_taken_as_shown(tmp_path):
    given = """
surgeon = OrthoLoRA(peft_model, tasks)
batches_a = batches_b = [slice(place % 4, place % 4 + 1) for place in range(16)]

def loss_of(task, batch):
    return problem.loss(tasks.index(task), batch)

"""
    end = "\nassert cosine.shape == low.shape == high.shape == (2, 2)\nassert (low <= high).all()\n"
    end += "assert all(p.grad is None for p in peft_model.parameters())\n"
    execute(tmp_path, given + blocks("python", "surgeon.snapshot") + end)


def test_the_loops_of_several_processes_are_run_as_shown(tmp_path):
    loop, wrapped = blocks("python", "surgeon.backward", DISTRIBUTED)
    given = """
def loss_of(task, batch):
    return problem.loss(tasks.index(task))

batches = dict.fromkeys(tasks)
loader = [batches] * 5
"""
    loop = loop.replace("init_process_group()", "init_process_group('gloo')")
    ddp = """
ddp_model = torch.nn.parallel.DistributedDataParallel(model)
problem.model = ddp_model
surgeon.remove()
surgeon = OrthoLoRA(ddp_model, tasks)
"""
    end = "\nassert surgeon.step == 1\ntorch.distributed.barrier()\ntorch.distributed.destroy_process_group()\n"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    execute(tmp_path, given + loop + ddp + wrapped + end, launcher)
    check_record(tmp_path / "runs" / "mine", 5)


def test_every_loop_of_the_documentation_is_run_here():
    shown = {name: re.findall(r"```python\n.*?```", text, re.S) for name, text in DOCUMENTS.items()}
    # What shards is run by tests/surgery/distributed/sharded.py.
    loops = {name: sum("surgeon" in code and "fully_shard" not in code for code in of) for name, of in shown.items()}
    assert {name: count for name, count in loops.items() if count} == {"README.md": 3, "distributed.md": 2}


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
    problem.tasks = ["spam", "spam-flip0.7"]
    for run in ("demo", "joint", "mine"):
        with Recorder(f"runs/{run}") as recorder:
            surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
            surgeon.backward(problem.losses())
    shown = re.findall(r"ortho-lora ((?:export|report) [^|#\n]*)", README)
    assert len(shown) == 5
    for command in shown:
        done = CliRunner().invoke(joint(), shlex.split(command))
        assert done.exit_code == 0, (command, done.stderr)
    made = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert made == {"mine-report.html", "mine-export", "layers.parquet", "compared.html"}


def test_the_configuration_shown_is_valid():
    config = load_config(overrides=yaml.safe_load(blocks("yaml", "# mine.yaml")))
    assert [task.name for task in config.tasks] == ["trec", "sst2", "stars", "entails"]


def test_every_rule_is_named():
    assert all(f"`{rule}`" in README for rule in RULES)
    assert all(method.removesuffix("-a").removesuffix("-b") in README for method in METHODS)
