"""Versions: of what decides what a run does, and of the files that say what it did. Importable without torch."""

import importlib.metadata
import platform

from ortho_lora.errors import OrthoLoraError

_VERSIONS = ("torch", "transformers", "peft", "numpy", "scikit-learn", "pyarrow", "ortho-lora")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS} | {"python": platform.python_version()}


def refuse_newer(what: str, version: int, known: int) -> int:
    """Return the version of a file that was written as `what`; raise OrthoLoraError where it is newer than known."""
    if version > known:
        raise OrthoLoraError(
            f"written with {what} version {version}, this program reads up to {known}: update ortho-lora to open it."
        )
    return version
