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
            if _strategy(settings) == "wrapped":
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


def refuse_crossing(trainer: Any) -> None:
    """Say so, where documents stand in one row and attend to each other.

    Raises:
        OrthoLoraError: they do.
    """
    args = trainer.args
    packing = getattr(args, "packing", False)
    if packing and _strategy(args) == "wrapped":
        raise _wrapped()
    attention = getattr(trainer.model.config, "_attn_implementation", None) or "eager"
    if (packing or getattr(args, "padding_free", False)) and not _kept_apart() and "flash" not in attention:
        raise OrthoLoraError(
            f"{'packing' if packing else 'padding_free'}: with attention {attention!r} this version of transformers"
            " lets the documents of a row attend to each other, so that no gradient is one task's: update it to 4.53 or"
            " newer, load the model with attn_implementation='flash_attention_2', or give each document a row."
        )


def _kept_apart() -> bool:
    """Whether masks part the documents of a row by their positions, whatever the attention."""
    try:
        from transformers import masking_utils
    except ImportError:
        return False
    return hasattr(masking_utils, "find_packed_sequence_indices")


def _strategy(args: Any) -> str:
    """How documents are packed; versions of TRL that do not ask let them run on into each other."""
    return str(getattr(args, "packing_strategy", "wrapped"))


def _wrapped() -> OrthoLoraError:
    return OrthoLoraError(
        "packing_strategy: 'wrapped' lets documents of different tasks attend to each other, so that no gradient is one"
        " task's: use packing_strategy='bfd', in a version of TRL that has it."
    )
