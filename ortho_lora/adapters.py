"""LoRA adapters on a model, seen as blocks: one block for every adapted module and branch."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import BRANCHES


@dataclass(frozen=True)
class Block:
    """One LoRA matrix: an adapted module x a branch."""

    layer: int  # -1 where the module's name holds no number
    module: str
    branch: str
    path: str  # of the adapted module inside the model
    linear: nn.Module  # `lora_A` or `lora_B` of the active adapter
    plain: bool  # a bias-free linear layer used as such, so that a fused pass can take its gradient apart

    @property
    def parameter(self) -> nn.Parameter:
        return self.linear.weight  # type: ignore[return-value]


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
        OrthoLoraError: the target modules are not in the model, or PEFT knows none for its architecture.
    """
    targets = list(target_modules) if target_modules else None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=dropout,
        target_modules=targets,
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(encoder, config, adapter_name=adapters[0])
            for adapter in adapters[1:]:
                torch.manual_seed(seed)
                model.add_adapter(adapter, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, part in encoder.named_modules() if isinstance(part, nn.Linear)}
        )
        given = ", ".join(targets) if targets else "none"
        raise OrthoLoraError(
            f"target_modules: {given} given for {type(encoder).__name__}, whose linear layers are {', '.join(linear)}:"
            f" name the ones to adapt (PEFT: {str(error).splitlines()[0]})"
        ) from error
    return model  # type: ignore[return-value]


def blocks(model: nn.Module, adapter: str) -> list[Block]:
    """The blocks of one adapter in the order of the model's modules, A before B."""
    found = [
        (path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    ]
    names = _module_names([path for path, _ in found])
    return [
        Block(
            layer=names[path][0],
            module=names[path][1],
            branch=branch,
            path=path,
            linear=getattr(layer, f"lora_{branch}")[adapter],
            plain=type(layer) is LoraLinear and adapter not in layer.lora_variant and not layer.lora_bias[adapter],
        )
        for path, layer in found
        for branch in BRANCHES
    ]


def _module_names(paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Layer and module of each path: the path's last word where that tells the modules of a layer apart."""
    split = {}
    for path in paths:
        number = re.search(r"\.(\d+)\.", path)
        layer = int(number[1]) if number else -1
        whole = path.replace(number[0], ".", 1) if number else path
        split[path] = (layer, path.rsplit(".", 1)[-1], whole.removeprefix("base_model.model."))
    count = Counter((layer, last) for layer, last, _ in split.values())
    ambiguous = {last for (_, last), times in count.items() if times > 1}
    return {path: (layer, whole if last in ambiguous else last) for path, (layer, last, whole) in split.items()}
