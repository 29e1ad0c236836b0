"""Versions of what decides what a run does. Importable without torch."""

import importlib.metadata
import platform

_VERSIONS = ("torch", "transformers", "peft", "numpy", "scikit-learn", "pyarrow", "ortho-lora")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()}
