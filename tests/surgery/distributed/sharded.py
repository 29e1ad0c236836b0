"""Run on one rank: models whose parameters are split are refused, in words."""

import torch
from models import tiny_bert
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.fsdp import fully_shard

from ortho_lora import OrthoLoRA, OrthoLoraError


def refused(model):
    try:
        OrthoLoRA(model, ["a", "b"])
    except OrthoLoraError as error:
        return str(error)
    return None


def main():
    torch.set_num_threads(1)
    init_process_group("gloo")
    assert refused(tiny_bert()) is None
    message = refused(fully_shard(tiny_bert()))
    assert message, "FSDP2 was not refused"
    assert "sharded parameters (FSDP2, tensor parallelism or ZeRO-3) splits gradients" in message, message
    destroy_process_group()


if __name__ == "__main__":
    main()
