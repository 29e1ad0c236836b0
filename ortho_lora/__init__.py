"""Train one LoRA adapter on several tasks, project conflicting task gradients apart, and record both.

Importing this package imports no torch: `record` and `training.config` serve programs that only look.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
    from ortho_lora.record.recorder import Recorder
    from ortho_lora.surgery.gram import combine, cosines, cosines_after, norms
    from ortho_lora.surgery.measure import Measured
    from ortho_lora.surgery.projection import Projection, all_orders, coefficients, effective_weights, project
    from ortho_lora.surgery.surgeon import OrthoLoRA
    from ortho_lora.trainers.trainer import OrthoLoRATrainer
    from ortho_lora.trainers.watch import watch

_HOME = {
    "OrthoLoRA": "surgery.surgeon",
    "OrthoLoRATrainer": "trainers.trainer",
    "OrthoLoraError": "errors",
    "OrthoLoraWarning": "errors",
    "Measured": "surgery.measure",
    "Projection": "surgery.projection",
    "Recorder": "record.recorder",
    "all_orders": "surgery.projection",
    "coefficients": "surgery.projection",
    "combine": "surgery.gram",
    "cosines": "surgery.gram",
    "cosines_after": "surgery.gram",
    "effective_weights": "surgery.projection",
    "norms": "surgery.gram",
    "project": "surgery.projection",
    "watch": "trainers.watch",
}

__all__ = [  # noqa: RUF022  # the library, then its mathematics
    "OrthoLoRA", "OrthoLoRATrainer", "watch", "Recorder", "Measured", "OrthoLoraError", "OrthoLoraWarning",
    "norms", "cosines", "cosines_after", "combine",
    "project", "coefficients", "effective_weights", "all_orders", "Projection",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'ortho_lora' has no attribute {name!r}")
    return getattr(import_module(f"ortho_lora.{_HOME[name]}"), name)
