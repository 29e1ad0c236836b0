"""LoRA adapters on a model, seen as blocks: one block for every adapted module and branch."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import BRANCHES, ModuleInfo


@dataclass(frozen=True, eq=False)
class Block:
    """One LoRA matrix: an adapted module x a branch."""

    layer: int  # -1 where the module's name holds no number
    module: str
    branch: str
    path: str  # of the adapted module inside the model
    parameter: nn.Parameter
    linears: tuple[nn.Linear, ...]  # whose passes make up its whole gradient; empty where none do

    @property
    def plain(self) -> bool:
        """Whether a pass over several tasks can be taken apart: the matrix is only used by linear layers."""
        return bool(self.linears)


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


def blocks(model: nn.Module, adapter: str | None = None) -> list[Block]:
    """The trainable blocks of one adapter in the order of the model's modules, A before B.

    A matrix that several layers share is one block, under the name of the first of them.

    Args:
        model: holds PEFT LoRA layers of any kind; may be wrapped for data-parallel training.
        adapter: name of the adapter; by default the active one.

    Raises:
        OrthoLoraError: there is no such adapter, none, or several are active at once.
    """
    layers = [(_unwrapped(path), layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    adapter = _only_active(layers) if adapter is None else adapter
    found = [
        (path, layer, branch, *matrix)
        for path, layer in layers
        for branch in BRANCHES
        if (matrix := _matrix(layer, adapter, branch)) and matrix[0].requires_grad
    ]
    if not found:
        present = sorted({name for _, layer in layers for name in (*layer.lora_A, *layer.lora_embedding_A)})
        have = ", ".join(present) or "no LoRA adapter"
        raise OrthoLoraError(
            f"adapter {adapter!r}: nothing of it can be trained; the model has {have}:"
            " add it with peft.get_peft_model, and make it the active one with model.set_adapter."
        )
    names = _module_names(list(dict.fromkeys(path for path, *_ in found)))
    uses = defaultdict(list)  # of each matrix: whatever applies it
    for *_, parameter, linear in found:
        uses[parameter].append(linear)
    by_parameter: dict[nn.Parameter, Block] = {}
    for path, _, branch, parameter, _ in found:
        linears = tuple(dict.fromkeys(uses[parameter]))
        known = tuple(linear for linear in linears if linear is not None)
        layer_index, module = names[path]
        block = Block(layer_index, module, branch, path, parameter, known if len(known) == len(linears) else ())
        by_parameter.setdefault(parameter, block)
    return list(by_parameter.values())


def module_infos(blocks: Sequence[Block]) -> tuple[ModuleInfo, ...]:
    """The adapted modules of blocks, for the record."""
    by_path: dict[str, list[Block]] = {}
    for block in blocks:
        by_path.setdefault(block.path, []).append(block)
    return tuple(
        ModuleInfo(
            layer=of[0].layer,
            module=of[0].module,
            path=path,
            shapes={block.branch: tuple(block.parameter.shape) for block in of},
        )
        for path, of in by_path.items()
    )


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile was applied to a model or a part of it."""
    return any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in model.modules()
    )


def _unwrapped(path: str) -> str:
    """The path inside the model itself, not inside DistributedDataParallel or torch.compile around it."""
    return re.sub(r"^((module|_orig_mod)\.)+", "", path)


def _only_active(layers: Sequence[tuple[str, LoraLayer]]) -> str:
    active = sorted({name for _, layer in layers for name in layer.active_adapters})
    if len(active) != 1:
        found = f"{len(active)} ({', '.join(active)})" if active else "none"
        raise OrthoLoraError(
            f"expected one active LoRA adapter, found {found}: pass a PEFT model, and choose with model.set_adapter."
        )
    return active[0]


def _matrix(layer: LoraLayer, adapter: str, branch: str) -> tuple[nn.Parameter, nn.Linear | None] | None:
    """The LoRA matrix, and the linear layer whose input and output gradient make its gradient where there is one."""
    embedding = getattr(layer, f"lora_embedding_{branch}")
    if adapter in embedding:
        return embedding[adapter], None
    parts = getattr(layer, f"lora_{branch}")
    if adapter not in parts:
        return None
    part = parts[adapter]
    # DoRA and the other variants use the matrices in ways of their own, and these two layers only their product.
    applied = not isinstance(layer, MultiheadAttention | ParamWrapper) and adapter not in layer.lora_variant
    return part.weight, part if applied and isinstance(part, nn.Linear) else None


def _module_names(paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Layer and module of each path: the path's last word where that tells the modules of a layer apart."""
    split = {}
    for path in paths:
        number = re.search(r"\.(\d+)\.", path)
        layer = int(number[1]) if number else -1
        whole = path.replace(number[0], ".", 1) if number else path
        split[path] = (layer, path.rsplit(".", 1)[-1], re.sub(r"^((module|_orig_mod|base_model|model)\.)+", "", whole))
    count = Counter((layer, last) for layer, last, _ in split.values())
    ambiguous = {last for (_, last), times in count.items() if times > 1}
    return {path: (layer, whole if last in ambiguous else last) for path, (layer, last, whole) in split.items()}
