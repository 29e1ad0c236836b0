"""Weights that bitsandbytes quantises to 4 bits, and what it does to them on a CPU."""

from torch import nn

from ortho_lora.errors import OrthoLoraError


def keep_differentiable(model: nn.Module) -> None:
    """Have 4-bit weights stay as they are when a model is evaluated.

    On CPUs with AVX512-BF16 bitsandbytes (0.50) packs them for inference in the first pass in evaluation mode whose
    input is on no graph, for good, and no gradient passes them from then on.

    Raises:
        OrthoLoraError: that has happened already.
    """
    for path, layer in model.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise OrthoLoraError(
                f"{path}: bitsandbytes has packed its weights for inference, as the first evaluation on a CPU does, and"
                " no gradient passes them: load the model anew, and evaluate it after its OrthoLoRA is made."
            )
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
