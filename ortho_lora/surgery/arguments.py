"""What a user of the library may give to `OrthoLoRA`: refused where it enters, in one sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from torch import Tensor

from ortho_lora.errors import OrthoLoraError, OwnPassError
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.methods import METHODS, RULES, SCOPES, Branches, Method, Order, Rule, Scope


def names_of(tasks: object) -> list[str]:
    """The tasks' names.

    Raises:
        OrthoLoraError: they are no names, none, or not different.
    """
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Sequence):
        raise OrthoLoraError(f"tasks: {tasks!r} given, expected a list of names, as in ['mnli', 'qqp'].")
    for task in tasks:
        if not isinstance(task, str) or not task.strip():
            raise OrthoLoraError(f"tasks: {task!r} given, expected a name of letters, as in 'mnli'.")
    if not tasks or len(set(tasks)) < len(tasks):
        raise OrthoLoraError(f"tasks: expected different names, found {', '.join(tasks) or 'none'}.")
    return list(tasks)


def weights_of(tasks: Sequence[str], given: object) -> dict[str, float]:
    """Factors on the tasks' losses, 1 where none is given.

    Raises:
        OrthoLoraError: one is not of a task, or no finite number above 0.
    """
    if given is None:
        return dict.fromkeys(tasks, 1.0)
    if not isinstance(given, Mapping):
        raise OrthoLoraError(f"loss_weights: {given!r} given, expected weights by task, as in {{{tasks[0]!r}: 2.0}}.")
    for task, weight in given.items():
        if task not in tasks:
            raise OrthoLoraError(f"loss_weights: task {task!r}: expected one of {', '.join(tasks)}.")
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise OrthoLoraError(
                f"loss_weights: {weight!r} given for task {task!r}, expected a finite number above 0; leave a task out"
                " of the losses where it is not to be trained."
            )
    return dict.fromkeys(tasks, 1.0) | {task: float(weight) for task, weight in given.items()}


def method_of(name: str, rule: Rule | None, scope: Scope | None, branches: Branches | None) -> Method:
    """A method with parts of it replaced.

    Raises:
        OrthoLoraError: there is no such method or part.
    """
    if name == "single":
        raise OrthoLoraError("method 'single' is an adapter for each task: give each an OrthoLoRA of its own.")
    if name not in METHODS:
        raise OrthoLoraError(f"method {name!r}: expected one of {', '.join(METHODS)}; or give rule and scope.")
    for what, value, known in (
        ("rule", rule, RULES),
        ("scope", scope, SCOPES),
        ("branches", branches, get_args(Branches)),
    ):
        if value is not None and value not in known:
            raise OrthoLoraError(f"{what}: {value!r} given, expected one of {', '.join(known)}.")
    return METHODS[name].changed(rule, scope, branches)


def check_order(order: object) -> None:
    """Raise OrthoLoraError where there is no such order of tasks."""
    if order not in get_args(Order):
        raise OrthoLoraError(f"order: {order!r} given, expected one of {', '.join(get_args(Order))}.")


def check_whole(name: str, value: object, least: int) -> None:
    """Raise OrthoLoraError where a value is no whole number of at least so much."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OrthoLoraError(f"{name}: {value!r} given, expected a whole number of at least {least}.")


def check_loss(whose: str, loss: object) -> None:
    """Raise OrthoLoraError where a loss is none that `backward` can start from."""
    if not isinstance(loss, Tensor):
        raise OrthoLoraError(f"loss of {whose}: {type(loss).__name__} given, expected a tensor on a graph.")
    if loss.ndim:
        raise OrthoLoraError(
            f"loss of {whose}: shape {list(loss.shape)} given, expected a scalar: take its mean or sum over examples."
        )
    if not loss.requires_grad:
        raise OrthoLoraError(
            f"loss of {whose}: it is on no graph, so there is nothing to differentiate: compute it from the model's"
            " output with gradients on, without detach, item or no_grad."
        )


def check_losses(losses: object, tasks: Sequence[str], *, mixed: bool = False) -> None:
    """Raise OrthoLoraError where losses are not by task, or, of a mixed batch, one scalar."""
    if isinstance(losses, Tensor):
        if not mixed:
            raise OrthoLoraError(
                "backward: one loss given outside `mixed_batch`: expected the losses by task, {'task': loss, ...}, or"
                " a batch that says which example is of which task."
            )
        check_loss("all tasks", losses)
        return
    if not isinstance(losses, Mapping):
        raise OrthoLoraError(
            f"losses: {type(losses).__name__} given, expected losses by task, as in {{{tasks[0]!r}: loss}}."
        )
    if not losses:
        raise OrthoLoraError("losses: none given, expected that of one task at least.")
    for task, loss in losses.items():
        if task not in tasks:
            raise OrthoLoraError(f"task {task!r}: expected one of {', '.join(tasks)}.")
        check_loss(f"task {task!r}", loss)


def place_of(task: int | str, tasks: Sequence[str]) -> int:
    """The place of a task that is given by its name or its place."""
    if isinstance(task, str) and task in tasks:
        return tasks.index(task)
    if isinstance(task, int) and 0 <= task < len(tasks):
        return task
    raise OrthoLoraError(f"task {task!r}: expected one of {', '.join(tasks)}, or its place from 0.")


def check_watchable(*, compiled: bool) -> None:
    """Raise OrthoLoraError where the layers of a model run where no hook sees them."""
    if compiled:
        raise OwnPassError("mixed_batch: the layers of a compiled model cannot be watched", "leave torch.compile out")


def check_plain(blocks: Sequence[Block]) -> None:
    """Raise OrthoLoraError where the gradient of a layer cannot be taken apart by examples."""
    if special := sorted({block.module for block in blocks if not block.plain}):
        raise OwnPassError(
            f"mixed_batch needs plain LoRA on linear layers, and {', '.join(special)} are not",
            "leave them out of the adapter",
        )
