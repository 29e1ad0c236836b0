"""Run on two ranks: where `fully_shard` has taken what is frozen, N ranks train as one rank with the whole batch.

The reference is that of engine.py, or `DistributedDataParallel` in a trainer.
"""

import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from engine import TASKS, alone, batch_of, compare, in_turn, mixed, sequential, start, train, whole
from mixtures import leaves_out, made
from texts import adapter, logs, same, trainer
from torch.distributed import destroy_process_group, get_rank, get_world_size, init_process_group
from torch.distributed.fsdp import fully_shard

from ortho_lora import OrthoLoRA, OrthoLoraError, Recorder, watch


def sharded():
    model = start()
    own = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in model.encoder.base_model.model.encoder.layer:
        fully_shard(layer, ignored_params=own)
    return fully_shard(model, ignored_params=own)


def full(found):
    weights, measured = found
    return {name: of.full_tensor() if hasattr(of, "full_tensor") else of for name, of in weights.items()}, measured


def check(way, method, *, accumulation=1, missing=None):
    rank, ranks = get_rank(), range(get_world_size())

    def has(task, one):
        return not (task == missing and one == ranks[-1])

    def everybody(step):
        return {task: whole(step, task, [one for one in ranks if has(task, one)]) for task in TASKS}

    scale = {task: sum(has(task, one) for one in ranks) / len(ranks) for task in TASKS}
    expected = alone(way, method, everybody, lora={}, scale=scale, accumulation=accumulation)
    for of in expected[1]:
        of.losses.div_(torch.tensor([scale[task] for task in TASKS]))
    model = sharded()
    kinds = {type(parameter).__name__ for parameter in model.parameters() if not parameter.requires_grad}
    assert kinds == {"DTensor"}
    surgeon = OrthoLoRA(model, TASKS, **method)
    mine = lambda step: {task: batch_of(step, task, rank) for task in TASKS if has(task, rank)}  # noqa: E731
    found = train(way, model, surgeon, mine, accumulation=accumulation)
    surgeon.remove()
    compare(full(found), expected, f"{way.__name__} {method} {accumulation} missing={missing}")


def check_refused():
    model = start()
    for layer in model.encoder.base_model.model.encoder.layer:
        fully_shard(layer)
    with pytest.raises(OrthoLoraError, match=r"ignored_params=\{p for p in model.parameters\(\) if p.requires_grad\}"):
        OrthoLoRA(model, TASKS)


def in_shards(made_one):
    """As accelerate prepares a model on accelerators; of CPUs alone it makes DistributedDataParallel."""
    state = made_one.accelerator.state
    former, state.distributed_type = state.distributed_type, DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        ignored_modules=".*lora_.*", cpu_ram_efficient_loading=False,
    )  # fmt: skip
    made_one.is_fsdp_enabled = True
    return state, former


def check_refused_by_trainer(make, run_dir):
    """Of an accelerate that knows no `ignored_modules` there, and so shards what is trained."""
    one = make("fsdp", Recorder(run_dir.with_name(f"{run_dir.name}-fsdp")))
    state, former = in_shards(one)
    with pytest.raises(OrthoLoraError, match=r"FSDP_IGNORED_MODULES"):
        one.train()
    state.distributed_type = former


def check_trainer(make, run_dir):
    """Weights and logs are those of DistributedDataParallel."""
    trained = []
    for name in ("ddp", "fsdp"):
        one = make(name, Recorder(run_dir.with_name(f"{run_dir.name}-{name}")))
        state, former = in_shards(one) if name == "fsdp" else (None, None)
        torch.manual_seed(1 + one.args.process_index)
        one.train()
        if state is not None:
            kinds = {type(of).__name__ for of in one.model.parameters() if not of.requires_grad}
            assert kinds == {"DTensor"}
            state.distributed_type = former
        trained.append(one)
    same(*(adapter(one.model) for one in trained))
    assert logs(trained[0]) == logs(trained[1])


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    init_process_group("gloo", timeout=timedelta(seconds=600))
    default = {"method": "ortho-lora"}
    for way in (sequential, in_turn, mixed):
        check(way, default, accumulation=2)
    check(mixed, {"method": "pcgrad"}, missing="b")
    check_refused()

    def watched(name, recorder):
        one = made(out / name, gradient_accumulation_steps=2, ddp_backend="gloo", max_grad_norm=0.05)
        watch(one, "source", method="ortho-lora", recorder=recorder)
        return one

    def of_tasks(name, recorder):
        return trainer(out / name, of_args={"max_steps": 2, "ddp_backend": "gloo"}, recorder=recorder)

    check_one = check_trainer if leaves_out() else check_refused_by_trainer
    check_one(watched, out / "watched")
    check_one(of_tasks, out / "tasks")
    torch.distributed.barrier()  # who leaves first takes the connections along
    destroy_process_group()


if __name__ == "__main__":
    main()
