"""Run on two ranks: `OrthoLoRATrainer`, and a loop of accelerate's, each with half of every batch.

Leaves the adapters in the directory that is given; test_distributed.py compares them with those of one rank.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from texts import OLD, adapter, collate, datasets, llama, trainer
from torch.utils.data import DataLoader

from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.trainers.task_dataset import TaskCollator, TaskDataset

SETTINGS = {
    "train_sampling_strategy": "sequential", "gradient_accumulation_steps": 2, "max_steps": 4, "max_grad_norm": 0.5,
    "save_strategy": "steps", "save_steps": 2, "average_tokens_across_devices": True,
}  # fmt: skip


def train(path, size, resume=None, recorder=None):
    """With `size` examples of a task on a rank, some of whose tokens have no label."""
    made = trainer(
        path,
        llama().double(),
        datasets(padding=True),
        of_args={"per_device_train_batch_size": size, **SETTINGS},
        eval_dataset={"a": datasets()["b"]},
        recorder=recorder,
    )
    made.train(resume_from_checkpoint=resume)
    return made


def loop(size, steps):
    """The loop of anyone who uses accelerate, with two micro-batches a step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = llama().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    texts = DataLoader(TaskDataset(datasets(), seed=0), batch_size=size, collate_fn=TaskCollator(unlabelled(collate)))
    model, optimizer, texts = accelerator.prepare(model, optimizer, texts)
    surgeon = OrthoLoRA(model, ["a", "b", "c"])
    model.train()
    batches = iter(texts)
    for step in range(2 * steps):
        with accelerator.accumulate(model):
            batch = next(batches)
            losses = {task: model(**of).loss / 2 for task, of in batch.items()}
            surgeon.backward(losses, accumulate=not accelerator.sync_gradients)
            optimizer.step()
            optimizer.zero_grad()
        assert surgeon.step == (step + 1) // 2
    return accelerator.unwrap_model(model)


def unlabelled(collator):
    return lambda examples: collator([{k: v for k, v in one.items() if k != "unknown"} for one in examples])


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    looped = adapter(loop(2, steps=2))
    trainer = train(out / "out", 2, recorder=Recorder(out / "run"))
    assert trainer.args.world_size == 2
    logged = [entry["loss/a"] for entry in trainer.state.log_history if "loss/a" in entry]
    assert logged
    whole = adapter(trainer.model)
    if not OLD:  # transformers 4 asks torch for a device `cpu:0` when it goes on with several ranks
        after = adapter(train(out / "again", 2, resume=str(out / "out" / "checkpoint-2")).model)
        assert all(after[name].equal(value) for name, value in whole.items())
    rank = trainer.args.process_index
    torch.save({"trainer": whole, "loop": looped, "logged": logged}, out / f"rank-{rank}.pt")
    torch.distributed.barrier()  # who leaves first takes the connections along
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
