"""The loss of each task in a batch that mixes them, where the model's output tells it; where it is, without a graph."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def of_rows(output: Any, labels: Tensor | None, *, shifted: bool) -> tuple[Tensor, Tensor] | None:
    """The summed loss of each row of a batch, and how many labels it counts, [N] each.

    Args:
        output: of a model.
        labels: of the batch: tokens [N, L] with -100 where none counts, classes [N], or numbers [N].
        shifted: whether each place is compared with the next one's label.

    Returns:
        None: not known.
    """
    if getattr(output, "log_probs", None) is not None and getattr(output, "label_mask", None) is not None:
        # TRL's language models, which make no logits; 0 where no label counts.
        return -output.log_probs.float().sum(-1), output.label_mask.sum(-1)
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or len(logits) != len(labels):
        return None
    if logits.ndim == 3 and labels.ndim == 2 and not labels.is_floating_point():
        if shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        if logits.shape[1] != labels.shape[1]:
            return None
        # Row by row: logits of all tokens in full precision would take more than the step itself.
        rows = [
            functional.cross_entropy(row.float(), of, reduction="sum") for row, of in zip(logits, labels, strict=True)
        ]
        return torch.stack(rows), labels.ne(-100).sum(-1)
    if logits.ndim == 2 and labels.ndim == 1:
        if not labels.is_floating_point():
            return functional.cross_entropy(logits.float(), labels, reduction="none"), torch.ones_like(labels)
        if logits.shape[1] == 1:
            return (logits[:, 0].float() - labels.float()).square(), torch.ones_like(labels)
    return None


def counted(labels: Tensor, *, shifted: bool) -> Tensor:
    """How many labels of each row count in a mean over them, [N]: of tokens, or one each."""
    if labels.ndim == 1 or labels.is_floating_point():
        return torch.ones(len(labels), dtype=torch.int64)
    return (labels[:, 1:] if shifted else labels).ne(-100).flatten(1).sum(1)


def of_tasks(rows: tuple[Tensor, Tensor], tasks: Tensor, count: int) -> Tensor:
    """Summed loss and counted labels of each of so many tasks, [2, T]; `tasks`: the place of each row's, [N]."""
    sums = torch.zeros(2, count, device=rows[0].device)
    return sums.index_add_(1, tasks.to(sums.device), torch.stack([rows[0].to(sums), rows[1].to(sums)]))
