"""Data-parallel training: tasks' gradients are averaged over the ranks before anything is projected."""

from collections import defaultdict
from collections.abc import Sequence

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


def refuse_sharded(model: nn.Module) -> None:
    """Raise OrthoLoraError where no process holds the whole gradient of a LoRA matrix (docs/distributed.md)."""
    kinds = {type(part).__name__ for part in model.modules()}
    sharded = any(type(p).__name__ == "DTensor" or hasattr(p, "ds_id") for p in model.parameters())
    for name in ("FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel"):
        if name in kinds or type(model).__name__ == name:
            raise refusal(name)
    if sharded:
        raise refusal("sharded parameters (FSDP2, tensor parallelism or ZeRO-3)")


def refusal(found: str) -> OrthoLoraError:
    """What to say of a kind of training that has no whole gradients."""
    return OrthoLoraError(
        f"{found} splits gradients over processes or devices, and a projection needs each LoRA matrix's whole gradient:"
        " use DistributedDataParallel (torchrun, accelerate launch) or one device; docs/distributed.md says what it"
        " would take."
    )
