"""Quantised models: a GGUF file becomes a directory as any other, with float32 weights."""

from importlib.util import find_spec
from pathlib import Path

from ortho_lora.assets.float32 import in_float32
from ortho_lora.errors import OrthoLoraError


def dequantise(file: Path, directory: Path) -> None:
    """Write the model, configuration and tokenizer of a GGUF file into `directory`, as transformers loads them.

    Takes half a minute for 135M parameters, and 4 bytes for each of them on the disk.

    Raises:
        OrthoLoraError: the package that reads such files is not installed.
    """
    if find_spec("gguf") is None:
        raise OrthoLoraError(
            f"{file.name} needs the package gguf to be read: pip install 'ortho-lora[gguf]', or take the model minilm."
        )
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder, name = str(file.parent), file.name
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(directory)
    AutoConfig.from_pretrained(folder, gguf_file=name).save_pretrained(directory)
    # `save_pretrained` refuses a model that came from such a file, though its weights are ordinary by now.
    model = AutoModel.from_pretrained(folder, gguf_file=name, **in_float32())
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
