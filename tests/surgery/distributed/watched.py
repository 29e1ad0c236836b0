"""Run on two ranks: a trainer that is watched, beside the trainer alone."""

import sys
from pathlib import Path

import torch
from mixtures import made
from texts import adapter, logs, same, table

from ortho_lora import Recorder, watch


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    trained = []
    for name in ("alone", "watched"):
        trainer = made(out / name, gradient_accumulation_steps=2, average_tokens_across_devices=True)
        assert trainer.args.world_size == 2
        if name == "watched":
            watch(trainer, "source", recorder=Recorder(out / "run"))
        torch.manual_seed(1 + trainer.args.process_index)
        trainer.train()
        trained.append(trainer)
    same(*(adapter(trainer.model) for trainer in trained))
    assert logs(trained[0]) == logs(trained[1])
    assert {"loss/qa", "cosine/code~qa"} <= set(trained[1].state.log_history[0])
    if not trained[0].args.process_index:
        assert [row["step"] for row in table(out / "run", "steps")] == [step for step in range(6) for _ in range(3)]
    torch.distributed.barrier()  # who leaves first takes the connections along
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
