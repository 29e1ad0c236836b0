"""The loss of one task's examples alone, from what the model answered to all of a batch: without another pass.

Preferences and generated answers have no labels that would tell it. The trainer's own code makes the loss once more,
and the models in it give their former answers, of the task's rows only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import Trainer

from ortho_lora.surgery import distributed
from ortho_lora.trainers.examples import Examples

_KINDS = {"DPOTrainer", "RewardTrainer", "GRPOTrainer", "RLOOTrainer"}
"""Of TRL, and what is made of them."""
_TOGETHER = ("gather", "gather_for_metrics", "reduce")
"""What ranks do with each other; not each of them has each task."""
OVER_TOKENS = ("dapo", "cispo", "vespo")
"""Losses of GRPO that are means over the tokens of all answers, which come to `compute_loss` as a number."""


def tells(trainer: Trainer) -> bool:
    """Whether a trainer makes its loss of the models' answers and of nothing else, and waits for no other rank."""
    waits = distributed.world_size() > 1 and distributed.is_sharded(cast(nn.Module, trainer.model))
    return not waits and any(one.__name__ in _KINDS for one in type(trainer).__mro__)


@contextmanager
def alone(trainer: Trainer) -> Iterator[None]:
    """Have a trainer make a loss as where it evaluates, without accumulation and without the other ranks."""
    model, accelerator = cast(nn.Module, trainer.model), trainer.accelerator
    former, model.training = model.training, False
    try:
        for name in _TOGETHER:
            setattr(accelerator, name, lambda of, *_, **__: of)
        yield
    finally:
        model.training = former
        for name in _TOGETHER:
            delattr(accelerator, name)


class UnlikeError(Exception):
    """The models are asked other things than before, or their answers have a part that all rows share."""


class _Answer(NamedTuple):
    module: nn.Module
    shape: tuple[int, ...]  # of what it was given
    output: Any


class Answers:
    """Of models, in the order in which they were asked."""

    def __init__(self) -> None:
        self._all: list[_Answer] = []

    def add(self, module: nn.Module, args: Sequence[Any], given: Mapping[str, Any], output: Any) -> None:
        """As a forward hook."""
        self._all.append(_Answer(module, _shape(args, given), output))

    @contextmanager
    def of_task(self, batch: Examples, task: int) -> Iterator[None]:
        """Let the models give the same answers again, of one task's examples only.

        Raises:
            UnlikeError: inside, where they are asked in another order or about other rows.
        """
        left = iter(self._all)
        former = {answer.module: answer.module.__dict__.get("forward") for answer in self._all}
        try:
            for module in former:
                module.forward = _again(module, left, batch, task)
            yield
        finally:
            for module, own in former.items():
                del module.forward
                if own is not None:
                    module.forward = own


def _again(module: nn.Module, left: Iterator[_Answer], batch: Examples, task: int) -> Callable[..., Any]:
    def forward(*args: Any, **given: Any) -> Any:
        answer, shape = next(left, None), _shape(args, given)
        if answer is None or answer.module is not module or not isinstance(answer.output, Mapping):
            raise UnlikeError
        rows, rest = divmod(answer.shape[0] if answer.shape else 0, batch.count)
        if rest or not rows or shape != (rows * batch.examples_of(task), *answer.shape[1:]):
            raise UnlikeError
        own = {name: value for name, value in answer.output.items() if name != "loss"}
        if any(isinstance(value, Tensor) and not value.ndim for value in own.values()):
            raise UnlikeError  # as a term that balances experts: all rows have it together
        return type(answer.output)(**batch.of_task(task, own))

    return forward


def _shape(args: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the first tensor that a model is given."""
    tensors = (value for value in [given.get("input_ids"), *args, *given.values()] if isinstance(value, Tensor))
    first = next(tensors, None)
    return () if first is None else tuple(first.shape)
