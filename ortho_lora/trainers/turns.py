"""Trainers whose data sets take turns, as those of sentence-transformers: a batch comes whole from one of them.

Examples of a batch are each other's negatives, so none has a gradient of its own; but a batch has, and that is its
task's. Batches of one step are compared: those that are accumulated, and those of several ranks.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.surgery.measure import Measured
from ortho_lora.trainers import mixture
from ortho_lora.trainers.inside import SurgeonInside
from ortho_lora.trainers.snapshots import Row, Rows
from ortho_lora.trainers.watched import Watched

_NAME = "dataset_name"
"""In a row and in a batch: which data set it is of."""


def takes_turns(kind: type[Trainer]) -> bool:
    """Whether it is a kind of trainer that makes a batch of each data set in turn."""
    return hasattr(kind, "add_dataset_name_column")


def data_sets(trainer: Trainer, tasks: Sequence[str] | None) -> mixture.TaskColumn:
    """The tasks of a trainer whose data sets take turns: their names.

    Raises:
        OrthoLoraError: there is one data set, or the tasks are others.
    """
    data: Any = trainer.train_dataset
    if not isinstance(data, Mapping):
        raise OrthoLoraError(
            f"watch: one data set given to {type(trainer).__name__}, where examples of a batch are each other's"
            " negatives, whatever their task: give it a data set of each task, train_dataset={'qa': ..., 'code': ...},"
            " which take turns."
        )
    names = list(data if tasks is None else tasks)
    if sorted(names) != sorted(data):
        raise OrthoLoraError(f"tasks: {', '.join(names)} given, expected the data sets' names: {', '.join(data)}.")
    return mixture.TaskColumn(_NAME, names, {name: place for place, name in enumerate(names)})


class TakingTurns(Watched):
    """Where a batch is of one task: its gradient is what autograd finds, whatever the layers and the loss."""

    _task: str  # of the batch under way

    def prepare(self, tasks: list[str]) -> None:
        """Say before any training what is wrong; any layer will do."""
        SurgeonInside.prepare(self, tasks)

    def carry(self, column: mixture.TaskColumn) -> None:
        """Have the trainer itself name the data set of each batch, as it does where each has a loss of its own."""
        data: Any = self.train_dataset
        if not hasattr(data, "_sentence_transformers_preprocessed"):
            own = type(data)({name: copy.copy(of) for name, of in data.items()})  # the user's stay as they are
            self.train_dataset = self.add_dataset_name_column(own)  # type: ignore[attr-defined]
            cast(Any, self.train_dataset)._sentence_transformers_preprocessed = True

    def _begin(self) -> None:
        super()._begin()
        if self.args.gradient_accumulation_steps * self.accelerator.num_processes == 1:
            warnings.warn(
                f"{self.kind.__name__} makes each batch of one data set, and a step holds one batch, so no two tasks'"
                " gradients can be compared or projected: set gradient_accumulation_steps to the number of data sets.",
                OrthoLoraWarning,
                stacklevel=2,
            )
            self._apart = None

    def _rows(self, column: mixture.TaskColumn, group_column: str | None) -> dict[str, tuple[Rows, int]]:
        data: Any = self.train_dataset
        return {task: (Rows(data[task], column, place, group_column), place) for place, task in enumerate(column.tasks)}

    def _shares(self, rows: Mapping[str, tuple[Rows, int]]) -> dict[str, float]:
        """By batches."""
        in_turn = "round_robin" in str(getattr(self.args, "multi_dataset_batch_sampler", "")).lower()
        sizes = {task: 1.0 if in_turn else float(len(of.places)) for task, (of, _) in rows.items()}
        return {task: size / sum(sizes.values()) for task, size in sizes.items()}

    def _collated(self, rows: Sequence[Row]) -> Any:
        return self.data_collator([dict(row) for row in rows])

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As ever; the loss of a batch is its task's."""
        if self._pass is None:
            return self.kind.compute_loss(self, model, inputs, *args, **kwargs)
        self._task = inputs[_NAME]
        # The surgeon averages over the ranks before it projects.
        self._pass.enter_context(self.accelerator.no_sync(model))
        loss = cast(Tensor, self.kind.compute_loss(self, model, inputs, *args, **kwargs))
        self._told = self._told.to(loss.device)
        self._told[:, self.surgeon.tasks.index(self._task)] += torch.stack([loss.detach().float(), loss.new_ones(())])
        return loss

    def _go_back(self, loss: Tensor, *, last: bool) -> Measured | None:
        shares = self.surgeon.loss_weights  # that snapshots need, and this loss has
        self.surgeon.loss_weights = dict.fromkeys(shares, 1.0)
        try:
            return self.surgeon.backward(
                {self._task: loss / self.accelerator.gradient_accumulation_steps},
                weights={self._task: 1},
                told=self._take_told() if last else None,
                accumulate=not last,
                scaler=self.accelerator.scaler,
            )
        finally:
            self.surgeon.loss_weights = shares
