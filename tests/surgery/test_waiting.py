"""Projection never waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ortho_lora.surgery.projection import all_orders, project, project_groups


class Copies(TorchDispatchMode):
    """Notes every copy between devices for which the host waits."""

    def __init__(self):
        super().__init__()
        self.blocking = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        moves = function is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device) != args[0].device
        if moves and not kwargs.get("non_blocking"):
            self.blocking.append(function)
        return function(*args, **kwargs)


@pytest.mark.parametrize("drawn", [[(2, 0, 1)], all_orders(3)])
@pytest.mark.parametrize("rule", ["sum", "pcgrad", "pcgrad-inplace", "gradvac"])
def test_projection_never_waits_for_the_device(rule, drawn):
    # A tensor on the meta device has no values: reading, or branching on one, is an error.
    matrices = torch.empty(5, 3, 3, device="meta")
    present, groups = (
        torch.ones(5, 3, dtype=torch.bool, device="meta"),
        torch.zeros(5, dtype=torch.int64, device="meta"),
    )
    with Copies() as copies:
        first = project(matrices, rule, drawn, present=present)
        second = project(matrices, rule, drawn, state=first.state)
        by_group = project_groups(matrices, groups, 2, rule, drawn)
    assert second.coefficients.shape == by_group.coefficients.shape == (5, 3, 3)
    assert copies.blocking == []


def test_waiting_for_the_device_would_be_seen():
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(1, device="meta").item()
    with pytest.raises(NotImplementedError, match="meta"):
        torch.empty(1, device="meta").cpu()
    with Copies() as copies:
        torch.ones(1).to("meta", non_blocking=True)
        assert copies.blocking == []
        torch.ones(1).to("meta")
    assert len(copies.blocking) == 1
