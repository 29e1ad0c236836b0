"""The loss of each task in a batch that mixes them, where the model's output tells it; where it is, without a graph."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def of_labels(output: Any, labels: Tensor | None, *, shifted: bool) -> tuple[Tensor, Tensor] | None:
    """The loss of each label of a batch, and whether it counts, [N, L] each.

    Args:
        output: of a model.
        labels: of the batch: tokens [N, L] with -100 where none counts, classes [N], or numbers [N]; of these L is 1.
        shifted: whether each place is compared with the next one's label.

    Returns:
        None: not known.
    """
    known = getattr(output, "label_mask", None)
    if isinstance(known, Tensor) and getattr(output, "log_probs", None) is not None and isinstance(labels, Tensor):
        # TRL's language models, which make no logits; a place has the log-probability of the next one's label.
        return _in_place(-output.log_probs.float(), labels), _in_place(known, labels)
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor) or len(logits) != len(labels):
        return None
    if logits.ndim == 3 and labels.ndim == 2 and not labels.is_floating_point():
        of_logits = labels
        if shifted:
            logits, of_logits = logits[:, :-1], labels[:, 1:]
        if logits.shape[1] != of_logits.shape[1]:
            return None
        counts = of_logits.ne(-100)
        found = torch.zeros(of_logits.shape, device=logits.device)
        begins = (counts.cumsum(1) == 0).sum(1)
        ends = counts.shape[1] - (counts.flip(1).cumsum(1) == 0).sum(1)
        # Row by row, without prompt and padding: logits of all tokens in full precision take more than the step itself.
        # What fits into a CPU's cache is done in two thirds of the time.
        tokens = 32 if logits.device.type == "cpu" else counts.shape[1]
        for row, (begin, end) in enumerate(torch.stack([begins, ends], 1).tolist()):
            for first in range(begin, end, tokens):
                here = row, slice(first, min(first + tokens, end))
                found[here] = functional.cross_entropy(logits[here].float(), of_logits[here], reduction="none")
        return _in_place(found, labels), _in_place(counts, labels)
    if logits.ndim == 2 and labels.ndim == 1:
        if not labels.is_floating_point():
            found = functional.cross_entropy(logits.float(), labels, reduction="none")
        elif logits.shape[1] == 1:
            found = (logits[:, 0].float() - labels.float()).square()
        else:
            return None
        return found[:, None], labels.ne(-100)[:, None]
    return None


def _in_place(values: Tensor, labels: Tensor) -> Tensor:
    """Moved to where the labels are that they tell of, [N, L]; the first of them has no place before it."""
    missing = labels.shape[1] - values.shape[1]
    return functional.pad(values, (missing, 0)) if missing else values


def counted(labels: Tensor, *, shifted: bool) -> Tensor:
    """How many labels of each row count in a mean over them, [N]: of tokens, or one each."""
    if labels.ndim == 1 or labels.is_floating_point():
        return torch.ones(len(labels), dtype=torch.int64)
    return (labels[:, 1:] if shifted else labels).ne(-100).flatten(1).sum(1)


def of_tasks(found: tuple[Tensor, Tensor], tasks: Tensor, count: int) -> Tensor:
    """Summed loss and counted labels of each of so many tasks, [2, T].

    Args:
        found: of `of_labels`.
        tasks: the place of each row's task, [N, 1], or of each label's, [N, L]; below 0: of none.
        count: T.
    """
    values, counts = found
    places = tasks.to(values.device).expand_as(values)
    use = counts.bool() & (places >= 0)
    sums = torch.zeros(2, count, device=values.device)
    return sums.index_add_(1, places[use], torch.stack([values[use], use[use].to(values)]))
