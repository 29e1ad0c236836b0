"""Data-parallel training: tasks' gradients are averaged over the ranks before anything is projected."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ortho_lora.errors import OrthoLoraError


def world_size() -> int:
    """Number of processes that train together; 1 where none were started."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Of this process among them."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def align(tensors: Sequence[Tensor]) -> None:
    """Give all ranks the values of the first, and wait until each has them: ranks that start apart stay apart."""
    if world_size() == 1:
        return
    for same in _by_kind(tensors):
        packed = torch.cat([tensor.detach().flatten() for tensor in same])
        distributed.broadcast(packed, src=0)
        _unpack(packed, same)
    distributed.barrier()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, which must all give the same shapes in the same order."""
    for same in _by_kind(tensors):
        packed = torch.cat([tensor.flatten() for tensor in same])
        packed /= world_size()  # before the sum, which could overflow in half precision
        distributed.all_reduce(packed)
        _unpack(packed, same)


def average_gradients(
    parameters: Sequence[nn.Parameter], parts: Sequence[Tensor], weights: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Average `.grad` of all parameters and the parts of the tasks' gradients, in place.

    A rank without a gradient, or without a task, counts as one with zero. What `DistributedDataParallel` has averaged
    already stays as it is: all ranks have the same there.

    Args:
        parameters: all that are trained.
        parts: of the N blocks, `[2T, *shape]` each, of the same dtypes on all ranks.
        weights: `[N, 2T]` on the CPU, of each part on this rank, in a unit that all ranks share.
        present: bool `[N, T]` on the CPU, where this rank measured a gradient.

    Returns:
        `weights` of all ranks together, and `present` on any of them.
    """
    here = torch.tensor([parameter.grad is not None for parameter in parameters])
    counts = torch.cat([here, present.flatten(), weights.flatten()]).to(parameters[0].device, torch.float32)
    distributed.all_reduce(counts)
    has_gradient, measured, seen = counts.cpu().split([len(parameters), present.numel(), weights.numel()])
    gradients = []
    for parameter, needed in zip(parameters, has_gradient.tolist(), strict=True):
        if needed:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    average([*gradients, *parts])
    return seen.view_as(weights), measured.view_as(present) > 0


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Those that one message can carry."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        kinds[tensor.dtype, tensor.device].append(tensor)
    return list(kinds.values())


def _unpack(packed: Tensor, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, values in zip(tensors, packed.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))


def is_sharded(model: nn.Module) -> bool:
    """Whether torch's `fully_shard` was applied to a model or to a part of it: then each pass waits for all ranks."""
    return any(base.__name__ == "FSDPModule" for part in model.modules() for base in type(part).__mro__)


def refuse_sharded(model: nn.Module) -> None:
    """Raise OrthoLoraError where no process holds the whole gradient of a LoRA matrix (docs/distributed.md)."""
    kinds = {type(part).__name__ for part in model.modules()}
    for name in ("FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel"):
        if name in kinds or type(model).__name__ == name:
            raise refusal(name)
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise refusal("DeepSpeed ZeRO-3")
    split = [parameter for parameter in model.parameters() if type(parameter).__name__ == "DTensor"]
    if split and (not is_sharded(model) or any(map(_is_split_again, split))):
        raise refusal("tensor parallelism")
    if any(parameter.requires_grad for parameter in split):
        raise trained_sharded()


def _is_split_again(parameter: Any) -> bool:
    """Whether more than `fully_shard` has split it: not all ranks then have examples of their own."""
    splits = [placement for placement in parameter.placements if placement.is_shard()]
    return len(splits) > 1 or parameter.device_mesh.size() != world_size()


def trained_sharded() -> OrthoLoraError:
    """What to say where `fully_shard` has taken what is trained too."""
    return OrthoLoraError(
        "fully_shard (FSDP2) shards parameters that are trained, and a projection needs each LoRA matrix's whole"
        " gradient: leave them out, fully_shard(layer, ignored_params={p for p in model.parameters() if"
        " p.requires_grad}), with accelerate FSDP_IGNORED_MODULES='.*lora_.*'; docs/distributed.md tells how."
    )


def refusal(found: str) -> OrthoLoraError:
    """What to say of a kind of training that has no whole gradients."""
    return OrthoLoraError(
        f"{found} splits gradients over processes or devices, and a projection needs each LoRA matrix's whole gradient:"
        " use DistributedDataParallel (torchrun, accelerate launch), or fully_shard (FSDP2) of the frozen weights alone"
        " where the model is too large; docs/distributed.md tells how."
    )
