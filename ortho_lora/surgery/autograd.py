"""What autograd itself finds, to compare with gradients that were taken apart."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def gradients(loss: Tensor, of: Sequence[nn.Parameter], trained: Iterable[nn.Parameter] = ()) -> list[Tensor | None]:
    """Gradients of a loss; its graph and every `.grad` stay as they are.

    Args:
        loss: on a graph.
        of: what to differentiate by.
        trained: all else that may get a gradient and that the graph does not show: what lies in reentrant checkpoints.
    """
    nodes = _graph(loss)
    if not _is_reentrant(nodes):
        return list(torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True))
    # What lies in reentrant checkpoints is only reached by `backward`.
    leaves = {node.variable for node in nodes if hasattr(node, "variable")}
    former = [(leaf, leaf.grad) for leaf in {*leaves, *of, *trained}]
    try:
        for leaf, _ in former:
            leaf.grad = None
        loss.backward(retain_graph=True)
        return [parameter.grad for parameter in of]
    finally:
        for leaf, before in former:
            leaf.grad = before


def errors(found: Sequence[Tensor | None], truth: Sequence[Tensor | None], *, rough: bool) -> tuple[Tensor, Tensor]:
    """Relative error |found - truth| / |truth| of each of N gradients, `[N]`, and |truth|, `[N]`; on the CPU.

    A share of the largest norm is added below, so that gradients which are rounding alone count as right.
    """
    device = next(one.device for one in (*truth, *found) if one is not None)
    precise = torch.float32 if device.type == "mps" else torch.float64
    nothing = torch.zeros((), dtype=precise, device=device)

    def plain(one: Tensor | None) -> Tensor:
        return nothing if one is None else one.detach().to(precise)

    off = torch.stack([(plain(mine) - plain(own)).norm() for mine, own in zip(found, truth, strict=True)])
    size = torch.stack([plain(own).norm() for own in truth])
    below = (size + (1e-2 if rough else 1e-6) * size.max()).clamp(min=torch.finfo(torch.float32).tiny)
    error, length = torch.stack([off / below, size]).cpu()
    return error, length


def has_reentrant_checkpoints(loss: Tensor) -> bool:
    """Whether a part of a loss's graph is made only while `backward` runs."""
    return _is_reentrant(_graph(loss))


def _is_reentrant(nodes: Iterable[Any]) -> bool:
    return any("CheckpointFunction" in node.name() for node in nodes)


def _graph(loss: Tensor) -> set[Any]:
    """The nodes of a loss's graph; of a reentrant checkpoint, what shows outside of it."""
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen
