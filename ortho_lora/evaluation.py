"""Metrics of a task on its evaluation splits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ortho_lora.batches import seed_of
from ortho_lora.model import MultiTaskModel, pad, tokenize
from ortho_lora.tasks import Split, TaskData
from ortho_lora.tasks.data import take
from ortho_lora.tasks.metrics import score


def evaluation_subsets(tasks: Sequence[TaskData], limit: int | None, seed: int) -> list[dict[str, Split]]:
    """At most `limit` examples of each evaluation split, the same each time, and for a twin its original's."""
    return [
        {
            name: split
            if limit is None or len(split) <= limit
            else take(split, _chosen(split, task, name, limit, seed))
            for name, split in task.evaluation.items()
        }
        for task in tasks
    ]


def _chosen(split: Split, task: TaskData, name: str, limit: int, seed: int) -> Sequence[int]:
    generator = torch.Generator().manual_seed(seed_of(seed, "evaluation", task.twin_of or task.name, name))
    return torch.randperm(len(split), generator=generator)[:limit].tolist()


@torch.inference_mode()
def encode(
    model: MultiTaskModel,
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """What the heads see of each example of `split`: `[N, width]`."""
    by_length = np.argsort([len(text) for text in split.texts], kind="stable")  # little padding
    pooled = []
    for start in range(0, len(split), batch_size):
        rows = take(split, by_length[start : start + batch_size].tolist())
        tokens = tokenize(tokenizer, rows.texts, rows.text_pairs, max_length=max_length)
        pooled.append(model.pooled(pad(tokenizer, tokens, device=device)))
    return torch.cat(pooled)[np.argsort(by_length)]


@torch.inference_mode()
def evaluate(model: MultiTaskModel, task: int, data: TaskData, split: Split, pooled: Tensor) -> dict[str, float]:
    """The mean `loss` and the task's metrics on `split`, whose examples were encoded to `pooled` [N, width]."""
    scores = model.scores(task, pooled).float().cpu()
    targets = torch.from_numpy(split.labels)
    if data.kind == "classification":
        loss = nn.functional.cross_entropy(scores, targets)
        predictions = scores.argmax(-1).numpy()
    else:
        loss = nn.functional.mse_loss(scores, targets)
        predictions = scores.numpy()
    return {"loss": loss.item(), **score(data.metrics, split.labels, predictions, data.classes)}
