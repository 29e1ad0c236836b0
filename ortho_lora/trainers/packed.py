"""Carries the column of tasks through the packing of TRL's `SFTTrainer`, which drops it."""

import copy
import inspect
from typing import Any

from ortho_lora.errors import OrthoLoraError
from ortho_lora.trainers.mixture import KEY, TaskColumn, task_column


def carrying(kind: type, column: str = "task") -> Any:
    """A trainer like `kind`, TRL's `SFTTrainer` or one made of it, that packs rows with the tasks of their documents.

    What it packs is what `kind` packs, in the same order::

        trainer = carrying(SFTTrainer, "source")(model, args=SFTConfig(..., packing=True), train_dataset=mixed)
        watch(trainer, "source")

    Args:
        kind: the trainer's class.
        column: says of each row of the data what task it is of.

    Raises:
        OrthoLoraError: its preparation of data is not the one that this was written for.
    """
    prepare: Any = getattr(kind, "_prepare_dataset", None)
    if prepare is None or not {"args", "packing"} <= set(inspect.signature(prepare).parameters):
        raise OrthoLoraError(
            f"carrying: {kind.__name__} given, expected TRL's SFTTrainer, or a class made of it, of a version whose"
            " _prepare_dataset takes args and packing (1.16 was run)."
        )

    class Carrying(kind):  # type: ignore[misc]
        task_column: TaskColumn | None = None  # that the packed rows know tasks by

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(prepare).bind(self, dataset, *args, **kwargs)
            settings = given.arguments["args"]
            if not given.arguments["packing"] or column not in (dataset.column_names or ()):
                return super()._prepare_dataset(dataset, *args, **kwargs)
            if settings.packing_strategy == "wrapped":
                raise _wrapped()
            if self.task_column is None:
                self.task_column = task_column(dataset, column, None)
            plain = copy.copy(settings)  # texts as they are: packing cuts them, in an order of its own
            plain.max_length, plain.shuffle_dataset = None, False
            given.arguments |= {"args": plain, "packing": False}
            return self._pack(super()._prepare_dataset(*given.args[1:], **given.kwargs), settings)

        def _pack(self, dataset: Any, settings: Any) -> Any:
            from trl.data_utils import pack_dataset

            of = self.task_column
            assert of is not None
            dataset = dataset.map(lambda row: {KEY: [of.place(row[column])] * len(row["input_ids"])})
            dataset = dataset.select_columns(["input_ids", "labels", KEY])
            if settings.shuffle_dataset:
                dataset = dataset.shuffle(seed=settings.seed)
            dataset = pack_dataset(dataset, settings.max_length, settings.packing_strategy)
            return dataset.shuffle(seed=settings.seed) if settings.shuffle_dataset else dataset

    Carrying.__name__ = Carrying.__qualname__ = kind.__name__
    return Carrying


def refuse_wrapped(trainer: Any) -> None:
    """Say so, where documents are packed that attend to each other.

    Raises:
        OrthoLoraError: they are.
    """
    args = trainer.args
    if getattr(args, "packing", False) and getattr(args, "packing_strategy", None) == "wrapped":
        raise _wrapped()


def _wrapped() -> OrthoLoraError:
    return OrthoLoraError(
        "packing_strategy: 'wrapped' lets documents of different tasks attend to each other, so that no gradient is one"
        " task's: use packing_strategy='bfd'."
    )
