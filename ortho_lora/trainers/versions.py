"""What the versions of transformers call differently, and what of `Trainer` no documentation promises."""

from typing import Any

from transformers import Trainer, TrainingArguments
from transformers import __version__ as transformers_version
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from ortho_lora.errors import OrthoLoraError

RAN = "4.51, 4.57 and 5.23"
"""Versions that `OrthoLoRATrainer` was run in."""

SEAMS = ("_get_collator_with_removed_columns", "_prepare_inputs", "_save_rng_state")
"""Private methods of Trainer that ours overrides or calls; `_track_num_input_tokens` only where there is one."""


def refuse_unknown() -> None:
    """Say so, if the Trainer that is installed lacks a seam.

    Raises:
        OrthoLoraError: it does.
    """
    for name in SEAMS:
        if not hasattr(Trainer, name):
            raise unknown(f"has no {name}")


def unknown(found: str) -> OrthoLoraError:
    """What to say where Trainer is not as it was: what was found in its place."""
    return OrthoLoraError(
        f"OrthoLoRATrainer ran in transformers {RAN}; Trainer of {transformers_version} {found}: install one of those,"
        " or put OrthoLoRA into a loop of your own."
    )


def refuse_counting(args: TrainingArguments) -> None:
    """Say so, if tokens shall be counted where Trainer counts them amid its loop.

    Raises:
        OrthoLoraError: it does.
    """
    if args.include_num_input_tokens_seen not in (False, "no") and not hasattr(Trainer, "_track_num_input_tokens"):
        raise OrthoLoraError(
            f"include_num_input_tokens_seen: transformers {transformers_version} counts one batch a step, and here is"
            " one of each task: leave it out, or install transformers 5."
        )


def sampling(args: TrainingArguments) -> str:
    """How items are drawn; transformers 4 knows two ways, under another name."""
    if hasattr(args, "train_sampling_strategy"):
        return str(args.train_sampling_strategy)
    return "group_by_length" if getattr(args, "group_by_length", False) else "random"


def is_split(trainer: Trainer) -> bool:
    """Whether tensors, contexts or sequences are parted among processes."""
    sizes = [getattr(trainer, f"get_{kind}_size", lambda: 1)() for kind in ("tp", "cp", "sp")]
    return max(sizes) > 1 or bool(getattr(trainer, "is_tp_enabled", False))


def accumulated(trainer: Trainer) -> int:
    """Micro-batches of the step under way: fewer at the end of an epoch, where Trainer knows it."""
    return getattr(trainer, "current_gradient_accumulation_steps", trainer.args.gradient_accumulation_steps)


def is_divided(trainer: Trainer, items: object) -> bool:
    """Whether a loss is divided by all that the step holds already, and not by the batch's own share alone."""
    if (told := getattr(trainer, "loss_is_scaled_for_ga", None)) is not None:
        return bool(told)
    return (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None


def shifts_labels(model: Any) -> bool:
    """Whether the model's own loss compares each place with the label of the next, as a causal language model's."""
    inner = getattr(model, "get_base_model", lambda: model)()
    loss = LOSS_MAPPING.get(str(getattr(inner, "loss_type", None)))
    return loss is ForCausalLMLoss and not getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
