"""Models in full precision, as every version of transformers is asked for them."""

from typing import Any


def in_float32() -> dict[str, Any]:
    """The argument of `from_pretrained`; transformers before 4.56 calls it by another name."""
    import torch
    import transformers

    old = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56)
    return {"torch_dtype" if old else "dtype": torch.float32}
