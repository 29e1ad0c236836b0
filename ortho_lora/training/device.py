"""What a run trains on."""

import torch

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching import processes


def choose(name: str) -> torch.device:
    """The device of that name; `auto`: an accelerator where there is one.

    Raises:
        OrthoLoraError: there is none.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None else torch.device("cpu")
    device = torch.device(name)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device.type]
    if not present:
        raise OrthoLoraError(f"device {name!r}: this machine or this build of torch has none: use device=auto or cpu.")
    return device


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held at once: of the accelerator where it has memory of its own."""
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device).max_memory_allocated(device))
    return processes.peak_memory()
