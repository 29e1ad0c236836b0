"""Train one LoRA adapter on several tasks, project conflicting task gradients apart, and record both.

Importing this package imports no torch: `ortho_lora.schema` and `ortho_lora.config` serve programs that only look.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
    from ortho_lora.gram import combine, cosines, cosines_after, norms
    from ortho_lora.measure import Measured
    from ortho_lora.projection import Projection, all_orders, coefficients, effective_weights, project
    from ortho_lora.record import Recorder
    from ortho_lora.surgeon import OrthoLoRA
    from ortho_lora.trainer import OrthoLoRATrainer

_HOME = {
    "OrthoLoRA": "surgeon",
    "OrthoLoRATrainer": "trainer",
    "OrthoLoraError": "errors",
    "OrthoLoraWarning": "errors",
    "Measured": "measure",
    "Projection": "projection",
    "Recorder": "record",
    "all_orders": "projection",
    "coefficients": "projection",
    "combine": "gram",
    "cosines": "gram",
    "cosines_after": "gram",
    "effective_weights": "projection",
    "norms": "gram",
    "project": "projection",
}

__all__ = [  # noqa: RUF022  # the library, then its mathematics
    "OrthoLoRA", "OrthoLoRATrainer", "Recorder", "Measured", "OrthoLoraError", "OrthoLoraWarning",
    "norms", "cosines", "cosines_after", "combine",
    "project", "coefficients", "effective_weights", "all_orders", "Projection",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'ortho_lora' has no attribute {name!r}")
    return getattr(import_module(f"ortho_lora.{_HOME[name]}"), name)
