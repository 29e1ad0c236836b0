"""LoRA adapters for an encoder, and which of its layers see other rows than examples."""

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.blocks import unwrapped

# What the paper adapts, by the names that architectures give it; in the last ones it is one layer with the key.
QUERY_AND_VALUE = (
    ("query", "value"), ("q_proj", "v_proj"), ("query_proj", "value_proj"), ("q_lin", "v_lin"), ("q", "v"),
    ("Wqkv",), ("qkv_proj",), ("query_key_value",), ("c_attn",),
)  # fmt: skip


def attach(
    encoder: nn.Module,
    adapters: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str] | None,
    seed: int,
) -> PeftModel:
    """Add one LoRA adapter for each name, all with the same initial values.

    Raises:
        OrthoLoraError: the target modules are not in the model, or none are known for its architecture.
    """
    targets = list(target_modules) if target_modules else _known_targets(encoder)
    paths = [path for path, _ in encoder.named_modules()]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=dropout,
        target_modules=targets,
    )
    try:
        for target in target_modules or ():
            if not any(path == target or path.endswith(f".{target}") for path in paths):
                raise ValueError(f"there is no {target}")
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # PEFT goes on to set it right
            torch.manual_seed(seed)
            model = get_peft_model(encoder, config, adapter_name=adapters[0])
            for adapter in adapters[1:]:
                torch.manual_seed(seed)
                model.add_adapter(adapter, config)
    except ValueError as error:
        given = ", ".join(targets) if targets else "none"
        raise OrthoLoraError(
            f"target_modules: {given} given for {type(encoder).__name__}, whose linear layers are"
            f" {', '.join(_linear(encoder))}: name the ones to adapt ({str(error).splitlines()[0]})"
        ) from error
    return model  # type: ignore[return-value]


def _known_targets(encoder: nn.Module) -> list[str] | None:
    """Query and value, under the names that they have in the model; None: PEFT knows them, or nobody does."""
    if getattr(encoder.config, "model_type", None) in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return None
    present = set(_linear(encoder))
    return next((list(names) for names in QUERY_AND_VALUE if present.issuperset(names)), None)


def _linear(encoder: nn.Module) -> list[str]:
    """The last words of the paths of all linear layers."""
    return sorted(
        {path.rsplit(".", 1)[-1] for path, part in encoder.named_modules() if isinstance(part, nn.Linear | Conv1D)}
    )


@torch.no_grad()
def layers_past_examples(model: nn.Module) -> frozenset[str]:
    """Paths of the adapted layers that are applied to other rows than a batch's examples.

    DeBERTa's projections also take a table of relative positions, which is no example's: the layer's gradient is not
    the sum of the examples' own.

    Args:
        model: adapted; is left in evaluation mode.
    """
    found: set[str] = set()

    def look(path: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) != len(tokens):
            found.add(path)

    device = next(model.parameters()).device
    tokens = torch.arange(3 * 5, device=device).view(3, 5) % 4
    handles = [
        nn.Module.register_forward_pre_hook(layer, partial(look, unwrapped(path)))  # type: ignore[arg-type]  # it is one
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    ]
    try:
        model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(found)
