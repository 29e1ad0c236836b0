"""What autograd itself finds, to compare with gradients that were taken apart."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def gradients(loss: Tensor, of: Sequence[nn.Parameter], trained: Iterable[nn.Parameter] = ()) -> list[Tensor | None]:
    """Gradients of a loss; its graph and every `.grad` stay as they are.

    Args:
        loss: on a graph.
        of: what to differentiate by.
        trained: all else that may get a gradient and that the graph does not show: what lies in reentrant checkpoints.
    """
    try:
        return list(torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True))
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
    # Reentrant checkpoints know `backward` only.
    former = [(leaf, leaf.grad) for leaf in {*_leaves(loss), *of, *trained}]
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


def _leaves(loss: Tensor) -> set[Tensor]:
    """Whatever a backward pass of a loss would give a gradient, as far as its graph shows."""
    found, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(variable)
        waiting += [following for following, _ in node.next_functions]
    return found
