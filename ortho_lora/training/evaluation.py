"""Metrics of tasks on their evaluation splits."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ortho_lora.record.recorder import Recorder
from ortho_lora.record.study import SELECTION_SPLIT
from ortho_lora.tasks.data import Split, TaskData, take
from ortho_lora.tasks.metrics import score
from ortho_lora.training.batches import seed_of
from ortho_lora.training.config import Config
from ortho_lora.training.model import MultiTaskModel, pad, tokenize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset(Split):
    """N examples of an evaluation split."""

    places: Sequence[int] = field(kw_only=True)
    """Of the examples in the whole split, [N]."""


def evaluation_subsets(tasks: Sequence[TaskData], limit: int | None) -> list[dict[str, Subset]]:
    """At most `limit` examples of each evaluation split, the same in every run, and for a twin its original's."""
    return [
        {name: _subset(split, task.twin_of or task.name, name, limit) for name, split in task.evaluation.items()}
        for task in tasks
    ]


def _subset(split: Split, source: str, name: str, limit: int | None) -> Subset:
    places = list(range(len(split)))
    if limit is not None and limit < len(split):
        # Of no run's seed: runs are compared on the same examples.
        generator = torch.Generator().manual_seed(seed_of(0, "evaluation", source, name))
        places = torch.randperm(len(split), generator=generator)[:limit].tolist()
    return Subset(**vars(take(split, places)), places=places)


@dataclass(frozen=True)
class Evaluation:
    """How a training is evaluated: at any step on the same examples."""

    config: Config
    tasks: Sequence[TaskData]
    subsets: Sequence[Mapping[str, Subset]]  # by task, of its splits
    model: MultiTaskModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    stop: threading.Event

    def encode(self, split: Split) -> Tensor:
        """As `encode`, with the settings of the run."""
        return encode(
            self.model,
            split,
            self.tokenizer,
            max_length=self.config.max_length,
            batch_size=self.config.eval_batch_size,
            device=self.device,
        )

    def record(self, recorder: Recorder, step: int, members: Sequence[int]) -> bool:
        """Evaluate the tasks of the adapter that is active, and add their rows.

        Args:
            recorder: of the run.
            step: optimizer steps done; after the last one the selection split is evaluated too, and predictions are
                recorded.
            members: the tasks.

        Returns:
            Whether all were evaluated; else it was stopped.
        """
        last = step == self.config.steps
        encoded: dict[tuple[str, str], Tensor] = {}  # a twin evaluates on its original's texts
        for task in members:
            data = self.tasks[task]
            for split, subset in self.subsets[task].items():
                if self.stop.is_set():
                    return False
                if split == SELECTION_SPLIT and not last:
                    continue
                source = (data.twin_of or data.name, split)
                if source not in encoded:
                    encoded[source] = self.encode(subset)
                scores, predictions = evaluate(self.model, task, data, subset, encoded[source])
                where: dict[str, str | int] = {"step": step, "split": split, "task": data.name}
                record_evaluation(recorder, where, subset, scores, predictions if last else None)
                listed = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
                log.info("step %d  %s  %s  %s", step, data.name, split, listed)
        return True


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
def evaluate(
    model: MultiTaskModel, task: int, data: TaskData, split: Split, pooled: Tensor
) -> tuple[dict[str, float], NDArray[Any]]:
    """The mean `loss` and the task's metrics on `split`, whose examples were encoded to `pooled` [N, width], and the
    predictions [N] that they judge."""
    scores = model.scores(task, pooled).float().cpu()
    targets = torch.from_numpy(split.labels)
    if data.kind == "classification":
        loss = nn.functional.cross_entropy(scores, targets)
        predictions = scores.argmax(-1).numpy()
    else:
        loss = nn.functional.mse_loss(scores, targets)
        predictions = scores.numpy()
    return {"loss": loss.item(), **score(data.metrics, split.labels, predictions, data.classes)}, predictions


@torch.inference_mode()
def example_losses(model: MultiTaskModel, task: int, split: Split, pooled: Tensor) -> NDArray[np.float64]:
    """The task's loss on each example of `split`, which were encoded to `pooled` [N, width]: [N]."""
    scores = model.scores(task, pooled).float().cpu().double()
    targets = torch.from_numpy(split.labels)
    if model.kinds[task] == "classification":
        return nn.functional.cross_entropy(scores, targets, reduction="none").numpy()
    return nn.functional.mse_loss(scores, targets.double(), reduction="none").numpy()


def record_evaluation(
    recorder: Recorder,
    where: Mapping[str, str | int],
    subset: Subset,
    scores: Mapping[str, float],
    predictions: NDArray[Any] | None,
) -> None:
    """Add the rows of a task on some of a split's examples.

    Args:
        recorder: of the run.
        where: `step`, `split` and `task`.
        subset: the examples.
        scores: by metric.
        predictions: [N], where they are to be recorded.
    """
    recorder.add("metrics", **where, metric=list(scores), value=list(scores.values()), examples=len(subset))
    if predictions is not None:
        recorder.add("predictions", **where, example=subset.places, target=subset.labels, prediction=predictions)
