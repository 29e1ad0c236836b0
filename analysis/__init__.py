"""Ask the records of runs: which tasks conflict, where, since when, and whether it is more than noise.

Importing this package imports no torch; it reads what `ortho_lora.record.schema` describes and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.notebook import open_run

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module("analysis.notebook"), name)
