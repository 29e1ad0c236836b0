"""Data-parallel training: tasks' gradients are averaged over the ranks before anything is projected."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from ortho_lora.errors import OrthoLoraError


def world_size() -> int:
    """Number of processes that train together; 1 where none were started."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return world_size() == 1 or distributed.get_rank() == 0


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, which must all give the same shapes in the same order."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        by_kind[tensor.dtype, tensor.device].append(tensor)
    for same in by_kind.values():
        packed = torch.cat([tensor.flatten() for tensor in same])
        distributed.all_reduce(packed)
        packed /= world_size()
        for tensor, mean in zip(same, packed.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def average_gradients(parameters: Sequence[nn.Parameter], parts: Sequence[Tensor], present: Tensor) -> Tensor:
    """Average `.grad` of all parameters and the parts of the tasks' gradients, in place.

    A rank without a gradient, or without a task, counts as one with zero. What `DistributedDataParallel` has averaged
    already stays as it is: all ranks have the same there.

    Args:
        parameters: all that are trained.
        parts: of the N blocks, `[2T, *shape]` each.
        present: bool `[N, T]` on the CPU, where this rank measured a gradient.

    Returns:
        `present` on any rank.
    """
    device = parameters[0].device
    here = torch.tensor([parameter.grad is not None for parameter in parameters])
    anywhere = torch.cat([here, present.flatten()]).to(device, torch.float32)
    distributed.all_reduce(anywhere)
    has_gradient, measured = (anywhere.cpu() > 0).split([len(parameters), present.numel()])
    gradients = []
    for parameter, needed in zip(parameters, has_gradient.tolist(), strict=True):
        if needed:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    average([*gradients, *parts])
    return measured.view_as(present)


def refuse_sharded(model: nn.Module) -> None:
    """Raise OrthoLoraError where no process holds the whole gradient of a LoRA matrix (docs/distributed.md)."""
    kinds = {type(part).__name__ for part in model.modules()}
    sharded = any(type(p).__name__ == "DTensor" or hasattr(p, "ds_id") for p in model.parameters())
    for name in ("FullyShardedDataParallel", "DeepSpeedEngine", "DataParallel"):
        if name in kinds or type(model).__name__ == name:
            raise _refusal(name)
    if sharded:
        raise _refusal("sharded parameters (FSDP2, tensor parallelism or ZeRO-3)")


def _refusal(found: str) -> OrthoLoraError:
    return OrthoLoraError(
        f"{found} splits gradients over processes or devices, and a projection needs each LoRA matrix's whole gradient:"
        " use DistributedDataParallel (torchrun, accelerate launch) or one device; docs/distributed.md says what it"
        " would take."
    )
