"""A pre-trained encoder with LoRA adapters and one linear head for each task."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ortho_lora.assets import archives
from ortho_lora.assets.float32 import in_float32
from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # of another name in transformers 4


@dataclass(frozen=True)
class Outline:
    """What a model makes of tokens."""

    width: int  # of a token's state
    causal: bool  # whether a token knows only those before it

    def pooling(self, given: str) -> str:
        """The pooling that a configuration asks for; `auto` takes what has seen the whole text.

        Raises:
            OrthoLoraError: what was asked for would see nothing of the text.
        """
        if given == "first" and self.causal:
            raise OrthoLoraError(
                "pooling: 'first' given, and the first token of this model sees nothing of what follows it: use 'last'"
                " or 'mean'."
            )
        return given if given != "auto" else "last" if self.causal else "mean"


def load_encoder(name: str, max_length: int = 1) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model without a task head, in float32, and its tokenizer.

    Args:
        name: a packaged model (`archives.MODELS`), a local directory, or a hub id. Weights are read from safetensors
            only, and no code that comes with a model is run. Of an encoder-decoder only the encoder is
            taken.
        max_length: tokens that it must be able to take.

    Raises:
        OrthoLoraError: no such model, it cannot be read, takes fewer tokens, or its tokenizer is another model's.
    """
    source = str(archives.model_directory(name)) if name in archives.MODELS else name
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise OrthoLoraError(f"model {name!r}: no such directory; give one that holds config.json, or a hub id.")
    source = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        limit = min(tokenizer.model_max_length, _positions(config) or max_length)
        if max_length > limit:
            raise OrthoLoraError(f"max_length: {max_length} given, and model {name!r} takes at most {limit} tokens.")
        whole, loading = AutoModel.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **in_float32()
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        packaged = ", ".join(map(repr, archives.MODELS))
        raise OrthoLoraError(
            f"model {name!r}: cannot be loaded: expected {packaged}, a directory or a hub id with config.json, a"
            f" tokenizer and safetensors weights ({str(error).strip().splitlines()[0]})"
        ) from error
    model = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    used = set(model.parameters())
    lacking = [  # no head here reads a pooler
        path
        for path, parameter in whole.named_parameters()
        if path in loading["missing_keys"] and parameter in used and "pooler" not in path
    ]
    if lacking:
        raise OrthoLoraError(
            f"model {name!r}: {len(lacking)} of its parameters would be random, as {lacking[0]} is not in its weights:"
            f" expected those of a {type(whole).__name__}, as config.json says."
        )
    _fit(tokenizer, model, name)
    return model, tokenizer


def _positions(config: "PreTrainedConfig") -> int | None:
    """Tokens that the model's table of positions has room for; None: it has no such table."""
    room: int | None = getattr(config, "max_position_embeddings", None)
    if room is None:
        return None
    with torch.device("meta"):  # takes no memory
        skeleton = AutoModel.from_config(config, trust_remote_code=False)
    # RoBERTa and its kin count from the row after that of padding.
    first = [
        table.padding_idx + 1
        for path, table in skeleton.named_modules()
        if isinstance(table, nn.Embedding) and "position" in path and table.padding_idx is not None
    ]
    return room - max(first, default=0)


def _fit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Let the tokenizer give what the model takes, padded on the right."""
    embeddings = model.get_input_embeddings()
    known = 1 + max(tokenizer.get_vocab().values())
    if isinstance(embeddings, nn.Embedding) and known > embeddings.num_embeddings:
        raise OrthoLoraError(
            f"model {name!r}: its tokenizer knows {known} tokens and the model {embeddings.num_embeddings}: they do not"
            " belong together; put the model's own tokenizer beside it."
        )
    if getattr(model.config, "type_vocab_size", 0) < 2:  # GPT-2 would take the types for tokens
        tokenizer.model_input_names = [kind for kind in tokenizer.model_input_names if kind != "token_type_ids"]
    if tokenizer.pad_token is None:  # decoders have none, and any will do: it is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise OrthoLoraError(
            f"model {name!r}: its tokenizer has no padding token, nor another that could stand in for it: set pad_token"
            " in its tokenizer_config.json."
        )
    tokenizer.padding_side = "right"


@torch.no_grad()
def outline(model: PreTrainedModel) -> Outline:
    """Ask the model itself: configurations name these things differently, or not at all.

    Raises:
        OrthoLoraError: it does not turn tokens into states.
    """
    tokens = torch.tensor([[1, 2], [1, 3]])
    try:
        states = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    except (TypeError, ValueError, AttributeError) as error:
        raise OrthoLoraError(
            f"model: {type(model).__name__} does not turn tokens into states: expected an encoder or decoder of text"
            f" ({str(error).strip().splitlines()[0]})"
        ) from error
    # Does the first token notice that the second one is another?
    return Outline(states.shape[-1], torch.allclose(states[0, 0], states[1, 0], rtol=1e-4, atol=1e-5))


def use_dropout(model: nn.Module, *, encoder: bool) -> None:
    """Set `model` to train with the adapters' dropout only, or with the frozen encoder's own as well."""
    model.train(encoder)
    for name, part in model.named_modules():
        if "lora_dropout" in name:
            part.train()


class MultiTaskModel(nn.Module):
    """An encoder and the tasks' heads, each drawn by a generator of its own.

    A twin that shares head and adapter uses its original's head.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Sequence[TaskData],
        *,
        width: int,
        pooling: str,
        adapters: Sequence[Collection[int]],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Make the heads.

        Args:
            encoder: with the adapters.
            tasks: whose heads there are.
            width: of what the encoder makes of a token.
            pooling: `mean`, `first` or `last`.
            adapters: places of the tasks that share each.
            generators: of each head's initial values.
        """
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        names = [task.name for task in tasks]

        def owner(index: int, task: TaskData) -> int:
            original = names.index(task.twin_of) if task.twin_of and task.shares_head else index
            return original if any({index, original} <= {*shared} for shared in adapters) else index

        self.owners = [owner(*of) for of in enumerate(tasks)]  # the task whose head each task uses
        self.kinds = [task.kind for task in tasks]
        heads = [nn.Linear(width, task.outputs) for task in tasks]
        for head, generator in zip(heads, generators, strict=True):
            nn.init.normal_(head.weight, std=0.02, generator=generator)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the heads in use."""
        return [parameter for owner in sorted(set(self.owners)) for parameter in self.heads[owner].parameters()]

    def pooled(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode tokens `[N, L]` to vectors `[N, width]`."""
        states = self.encoder(**batch).last_hidden_state  # [N, L, width]
        mask = batch["attention_mask"]
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)

    def scores(self, task: int, pooled: Tensor) -> Tensor:
        """Logits `[N, classes]` or predictions `[N]` of a task."""
        output = self.heads[self.owners[task]](pooled)
        return output if self.kinds[task] == "classification" else output.squeeze(-1)

    def loss(self, task: int, pooled: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy or mean squared error of a task's examples, a scalar in float32."""
        scores = self.scores(task, pooled).float()
        if self.kinds[task] == "classification":
            return nn.functional.cross_entropy(scores, labels)
        return nn.functional.mse_loss(scores, labels)


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None,
    *,
    max_length: int,
) -> list[dict[str, list[int]]]:
    """Tokens of each text, or pair of texts, cut to `max_length` and not padded."""
    pairs = None if text_pairs is None else list(text_pairs)
    batch = tokenizer(list(texts), pairs, truncation=True, max_length=max_length)
    return [{name: values[row] for name, values in batch.items()} for row in range(len(texts))]


def pad(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, list[int]]], *, device: torch.device
) -> dict[str, Tensor]:
    """A batch of what `tokenize` gives, padded to the longest row: `[N, L]` each."""
    batch = tokenizer.pad(list(rows), padding=True, return_tensors="pt")
    return {name: value.to(device) for name, value in batch.items()}
