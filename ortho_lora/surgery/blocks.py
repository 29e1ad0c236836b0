"""LoRA adapters on a model, seen as blocks: one block for every adapted module and branch."""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass

from peft import PeftType
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.lora import layer as lora_layers
from torch import nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import numbers
from ortho_lora.record.schema import BRANCHES, ModuleInfo

_PRODUCTS = tuple(  # layers that use only the product of their two matrices; peft 0.15 has the first
    getattr(lora_layers, name) for name in ("MultiheadAttention", "ParamWrapper") if hasattr(lora_layers, name)
)


@dataclass(frozen=True, eq=False)
class Block:
    """One LoRA matrix: an adapted module x a branch."""

    layer: int  # of `record.layers`; -1 where the module's name holds no number
    module: str
    branch: str
    path: str  # of the adapted module inside the model
    parameter: nn.Parameter
    linears: tuple[nn.Linear, ...]  # whose passes make up its whole gradient; empty where none do

    @property
    def plain(self) -> bool:
        """Whether a pass over several tasks can be taken apart: the matrix is only used by linear layers."""
        return bool(self.linears)


def blocks(model: nn.Module, adapter: str | None = None, whole: Container[str] = ()) -> list[Block]:
    """The trainable blocks of one adapter in the order of the model's modules, A before B.

    A matrix that several layers share is one block, under the name of the first of them.

    Args:
        model: holds PEFT LoRA layers of any kind; may be wrapped for data-parallel training.
        adapter: name of the adapter; by default the active one.
        whole: paths of layers whose gradient cannot be taken apart by examples (`layers_past_examples`).

    Raises:
        OrthoLoraError: there is no such adapter, none, or several are active at once.
    """
    layers = [(unwrapped(path), layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    if (others := _other_kinds(model)) and all(isinstance(layer, AdaLoraLayer) for _, layer in layers):
        raise OrthoLoraError(
            f"the model's adapter is of the kind {', '.join(others)}, and what is projected and recorded are the"
            " matrices A and B of LoRA: add an adapter with peft.LoraConfig."
        )
    adapter = _only_active(layers) if adapter is None else adapter
    found = [
        (path, layer, branch, *matrix)
        for path, layer in layers
        for branch in BRANCHES
        if (matrix := _matrix(layer, adapter, branch)) and matrix[0].requires_grad
    ]
    if not found:
        present = sorted({name for _, layer in layers for name in (*layer.lora_A, *layer.lora_embedding_A)})
        if adapter not in present:
            raise OrthoLoraError(
                f"adapter {adapter!r}: the model has {', '.join(present) or 'no LoRA adapter'}: add it with"
                " peft.get_peft_model, and make it the active one with model.set_adapter."
            )
        raise OrthoLoraError(
            f"adapter {adapter!r}: nothing of it can be trained: load it with PeftModel.from_pretrained(...,"
            " is_trainable=True), or make it the active one with model.set_adapter."
        )
    names = _module_names(list(dict.fromkeys(path for path, *_ in found)))
    uses = defaultdict(list)  # of each matrix: whatever applies it
    for path, *_, parameter, linear in found:
        uses[parameter].append(None if path in whole else linear)
    by_parameter: dict[nn.Parameter, Block] = {}
    for path, _, branch, parameter, _ in found:
        linears = tuple(dict.fromkeys(uses[parameter]))
        known = tuple(linear for linear in linears if linear is not None)
        layer_index, module = names[path]
        block = Block(layer_index, module, branch, path, parameter, known if len(known) == len(linears) else ())
        by_parameter.setdefault(parameter, block)
    return list(by_parameter.values())


def check_same(blocks: Sequence[Block]) -> None:
    """Raise OrthoLoraError where the layers hold other matrices by now."""
    if any(linear.weight is not block.parameter for block in blocks for linear in block.linears):
        raise OrthoLoraError(
            "the adapter's weights are others than when this OrthoLoRA was made (a model loaded, moved or prepared"
            " since then may hold new ones): make it afterwards, and the optimizer too."
        )


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


def trained(model: nn.Module) -> list[nn.Parameter]:
    """All parameters of a model that are trained, outside its adapter too."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile was applied to a model or a part of it."""
    return any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in model.modules()
    )


def unwrapped(path: str) -> str:
    """The path inside the model itself, not inside DistributedDataParallel or torch.compile around it."""
    return re.sub(r"^((module|_orig_mod)\.)+", "", path)


def _other_kinds(model: nn.Module) -> list[str]:
    """Kinds of adapters that are not LoRA, by PEFT's names."""
    configs = [getattr(part, "peft_config", None) for part in model.modules()]
    kinds = {config.peft_type for of in configs if isinstance(of, dict) for config in of.values()}
    return sorted(str(getattr(kind, "value", kind)) for kind in kinds - {PeftType.LORA})


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
    # DoRA and the other variants use the matrices in ways of their own; peft 0.15 knows no others.
    variant = adapter in layer.lora_variant if hasattr(layer, "lora_variant") else layer.use_dora.get(adapter, False)
    applied = not isinstance(layer, _PRODUCTS) and not variant
    return part.weight, part if applied and isinstance(part, nn.Linear) else None


def _module_names(paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Layer and module of each path: the path's last word where that tells the modules of a layer apart."""
    split = {}
    for path, layer in zip(paths, numbers(paths), strict=True):
        number = re.search(r"\.(\d+)\.", path)
        whole = path.replace(number[0], ".", 1) if number else path
        split[path] = (layer, path.rsplit(".", 1)[-1], re.sub(r"^((module|_orig_mod|base_model|model)\.)+", "", whole))
    count = Counter((layer, last) for layer, last, _ in split.values())
    ambiguous = {last for (_, last), times in count.items() if times > 1}
    return {path: (layer, whole if last in ambiguous else last) for path, (layer, last, whole) in split.items()}
