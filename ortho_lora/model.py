"""A pre-trained encoder with LoRA adapters and one linear head for each task."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ortho_lora import assets
from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks import TaskData


def load_encoder(name: str, max_length: int = 1) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model without a task head, in float32, and its tokenizer.

    Args:
        name: `minilm` (packaged), a local directory, or a hub id. Weights are read from safetensors only, and no code
            that comes with a model is run.
        max_length: tokens that it must be able to take.

    Raises:
        OrthoLoraError: no such model, it cannot be read, or it takes fewer tokens.
    """
    source = str(assets.model_directory(name)) if name == "minilm" else name
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise OrthoLoraError(f"model {name!r}: no such directory; give one that holds config.json, or a hub id.")
    source = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or max_length)
        if max_length > limit:
            raise OrthoLoraError(f"max_length: {max_length} given, and model {name!r} takes at most {limit} tokens.")
        model = AutoModel.from_pretrained(source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise OrthoLoraError(
            f"model {name!r}: cannot be loaded: expected 'minilm', a directory or a hub id with config.json, a"
            f" tokenizer and safetensors weights ({str(error).strip().splitlines()[0]})"
        ) from error
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model, tokenizer


def use_dropout(model: nn.Module, *, encoder: bool) -> None:
    """Set `model` to train with the adapters' dropout only, or with the frozen encoder's own as well."""
    model.train(encoder)
    for name, part in model.named_modules():
        if "lora_dropout" in name:
            part.train()


class MultiTaskModel(nn.Module):
    """An encoder and the tasks' heads; a twin that shares a head uses its original's."""

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Sequence[TaskData],
        *,
        width: int,
        pooling: str,
        share_heads: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        names = [task.name for task in tasks]
        self.owners = [  # the task whose head each task uses
            names.index(task.twin_of) if task.twin_of and task.shares_head and share_heads else index
            for index, task in enumerate(tasks)
        ]
        self.kinds = [task.kind for task in tasks]
        self.heads = nn.ModuleList(nn.Linear(width, task.outputs) for task in tasks)
        for name, parameter in self.heads.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.02, generator=generator)

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
