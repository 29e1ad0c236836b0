"""Several processes train as one does; see tests/surgery/distributed/ for what each of them checks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from mixtures import leaves_out
from models import tiny_bert
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from waiting import PATIENCE

from ortho_lora import OrthoLoRA, OrthoLoraError
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status

HERE = Path(__file__).parent
WORKERS = HERE / "distributed"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node"]
# With --cpu, `accelerate launch` starts several processes through MPI only; the scripts themselves choose the CPU.
ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "FREE", "--num_processes",
]  # fmt: skip


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def launch(launcher, processes, script, *arguments):
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    launcher = [free_port() if word == "FREE" else word for word in launcher]
    command = [sys.executable, "-m", *launcher, str(processes), str(WORKERS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]


def rows(run_dir, table):
    return [row for part in part_files(run_dir, table) for row in pq.read_table(part).to_pylist()]


def test_two_ranks_train_as_one_with_the_whole_batch(tmp_path):
    launch(TORCHRUN, 2, "engine.py", tmp_path / "run")
    assert read_status(tmp_path / "run").state == "finished"
    keys = [(row["step"], row["task"]) for row in rows(tmp_path / "run", "steps")]
    assert keys == [(step, task) for step in range(3) for task in "abc"]
    assert [(row["step"], row["event"], row["task"]) for row in rows(tmp_path / "nonfinite", "events")] == [
        (1, "nonfinite", "b"), (1, "skipped", None),
    ]  # fmt: skip
    names = ("step", "layer", "module", "branch", "task")
    keys = [tuple(row[name] for name in names) for row in rows(tmp_path / "run", "norms")]
    assert len(keys) == len(set(keys)) == 3 * 2 * 2 * 2 * 3  # steps, layers, modules, branches, tasks


def test_two_ranks_that_are_watched_train_as_without(tmp_path):
    launch(TORCHRUN, 2, "watched.py", tmp_path)


def test_two_ranks_with_sharded_weights_train_as_one_with_the_whole_batch(tmp_path):
    launch(TORCHRUN, 2, "sharded.py", tmp_path)
    if not leaves_out():
        return  # it has been refused there
    steps = [rows(tmp_path / f"watched-{name}", "steps") for name in ("ddp", "fsdp")]
    known = [[(row["step"], row["task"], row["loss"]) for row in of] for of in steps]
    assert known[0] == known[1]
    assert len(known[0]) == 6 * 3


@pytest.fixture(scope="module")
def of_one_rank(tmp_path_factory):
    from surgery.distributed.trained import loop, train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests' data loaders, which accelerate remembers
    GradientState._reset_state()
    looped = loop(4, steps=2)
    trainer = train(tmp_path_factory.mktemp("one"), 4)
    torch.set_num_threads(threads)
    return trainer, looped


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_ranks_of_the_trainer_and_of_accelerate_train_as_one(tmp_path, launcher, of_one_rank):
    from texts import adapter

    launch(launcher, 2, "trained.py", tmp_path)
    trainer, looped = of_one_rank
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    for name, expected in (("trainer", adapter(trainer.model)), ("loop", adapter(looped))):
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-7)
        assert all(second[name][key].equal(value) for key, value in first[name].items())
    logged = [entry["loss/a"] for entry in trainer.state.log_history if "loss/a" in entry]
    assert first["logged"] == second["logged"] == pytest.approx(logged, rel=1e-5)
    steps = rows(tmp_path / "run", "steps")
    assert [(row["step"], row["task"]) for row in steps] == [(step, task) for step in range(4) for task in "abc"]


@pytest.fixture
def one_rank():
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_sharded_adapters_are_refused():
    OrthoLoRA(tiny_bert(), ["a", "b"])
    message = r"fully_shard \(FSDP2\) shards parameters that are trained, .* fully_shard\(layer, ignored_params=\{p for"
    with pytest.raises(OrthoLoraError, match=message):
        OrthoLoRA(fully_shard(tiny_bert()), ["a", "b"])


@pytest.mark.usefixtures("one_rank")
def test_tensor_parallelism_is_refused():
    """With frozen weights alone, and with those that are left sharded too."""
    mesh = init_device_mesh("cpu", (1,))
    for shards in (False, True):
        model = tiny_bert()
        own = {parameter for parameter in model.parameters() if parameter.requires_grad}
        for part in model.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                if parameter not in own and parameter.ndim > 1 and not shards:
                    part.register_parameter(
                        name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)]), requires_grad=False)
                    )
        if shards:
            both = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "tp"))
            plan = {"encoder.layer.0.intermediate.dense": ColwiseParallel()}
            parallelize_module(model.base_model.model, both["tp"], plan)
            fully_shard(model, mesh=both["dp"], ignored_params=own)
        with pytest.raises(OrthoLoraError, match="tensor parallelism splits gradients"):
            OrthoLoRA(model, ["a", "b"])


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("name", ["DeepSpeedEngine", "FullyShardedDataParallel"])
def test_engines_that_split_gradients_are_refused_by_name(name):
    engine = type(name, (Wrapper,), {})(tiny_bert())
    with pytest.raises(OrthoLoraError, match=f"{name} splits gradients.*use DistributedDataParallel.*fully_shard"):
        OrthoLoRA(engine, ["a", "b"])


def test_one_process_with_several_devices_is_refused():
    with pytest.raises(OrthoLoraError, match="DataParallel splits gradients over processes or devices"):
        OrthoLoRA(nn.DataParallel(tiny_bert()), ["a", "b"])


def test_zero_3_is_refused():
    model = tiny_bert()
    next(model.parameters()).ds_id = 0
    with pytest.raises(OrthoLoraError, match="DeepSpeed ZeRO-3 splits gradients.*or fully_shard"):
        OrthoLoRA(model, ["a", "b"])
