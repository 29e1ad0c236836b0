"""LoRA adapters on a model, seen as blocks: one block for every adapted module and branch."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import BRANCHES, ModuleInfo

# What the paper adapts, by the names that architectures give it; in the last ones it is one layer with the key.
QUERY_AND_VALUE = (
    ("query", "value"), ("q_proj", "v_proj"), ("query_proj", "value_proj"), ("q_lin", "v_lin"), ("q", "v"),
    ("Wqkv",), ("qkv_proj",), ("query_key_value",), ("c_attn",),
)  # fmt: skip


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
        nn.Module.register_forward_pre_hook(layer, partial(look, _unwrapped(path)))  # type: ignore[arg-type]  # it is one
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    ]
    try:
        model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(found)


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
    layers = [(_unwrapped(path), layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer)]
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
