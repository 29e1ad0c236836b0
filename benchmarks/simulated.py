"""Trainings of a linearized model, which take seconds: after Grad-TAG (arXiv 2409.06091) and EnsembleLoRA (2505.21930).

At one place of a training the logits of every example are taken as linear in the adapter, with gradients kept as a
random sketch, and as linear in the task's head, which they are. Training on any set of tasks is then a convex fit. A
ridge stands for the trainings' length: gradient flow for a time t, the sum of learning rates, in the optimizer's
metric, goes about as far as a ridge of 1 / t. Where AdamW's steps shrink because a partner's gradients are large
(crowding), t shrinks with them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from snapshot_tasks import Course
from torch import Tensor, nn

from ortho_lora.record.transfer import only, step_sizes
from ortho_lora.record.vectors import Vectors
from ortho_lora.tasks.data import Split, TaskData, take
from ortho_lora.training.model import pad, tokenize

WIDTH = 400
"""Of a sketch."""
AT_ONCE = 16
"""Examples of a pass."""

Singles = NDArray[np.float32]


class Examples(NamedTuple):
    """n examples of a task with K classes."""

    logits: Singles  # [n, K]
    sketches: Singles  # of their gradients in the optimizer's metric, [n, K, WIDTH]
    states: Singles  # that the head sees, times the root of its metric, [n, H]; the last is the bias's
    labels: NDArray[np.int64]  # [n]


@dataclass(frozen=True, eq=False)
class Features:
    """Of all tasks at one place."""

    train: dict[str, Examples]
    held_out: dict[str, Examples]
    time: float  # sum of the adapter's learning rates in a training
    head_time: float
    vectors: Vectors  # tell how far AdamW steps in another mixture
    _fits: dict[frozenset[str], dict[str, float]] = field(default_factory=dict)

    def losses(self, names: frozenset[str]) -> dict[str, float]:
        """Held-out loss of each of these tasks after a training on them together."""
        if names not in self._fits:
            self._fits[names] = self._fit(sorted(names))
        return self._fits[names]

    def _fit(self, names: Sequence[str]) -> dict[str, float]:
        parts = [self.train[name] for name in names]
        shapes = [(of.logits.shape[1], of.states.shape[1]) for of in parts]
        ends = np.cumsum([WIDTH, *(rows * columns for rows, columns in shapes)])
        ridge = 1 / (self.time * self._pace(names))

        def heads_of(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
            return [of.reshape(shape) for of, shape in zip(np.split(flat, ends[:-1])[1:], shapes, strict=True)]

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            shared, heads = flat[:WIDTH], heads_of(flat)
            value = float(ridge / 2 * shared @ shared) + sum(float((of**2).sum()) for of in heads) / 2 / self.head_time
            gradients = [ridge * shared]
            for of, head in zip(parts, heads, strict=True):
                loss, error = _cross_entropy(_logits(of, shared, head), of.labels)
                value += loss
                gradients[0] = gradients[0] + np.tensordot(error, of.sketches, 2)
                gradients.append((error.T @ of.states + head / self.head_time).ravel())
            return value, np.concatenate(gradients)

        found = optimize.minimize(objective, np.zeros(ends[-1]), jac=True, method="L-BFGS-B", options={"maxiter": 300})
        heads = heads_of(found.x)
        return {
            name: _cross_entropy(_logits(self.held_out[name], found.x[:WIDTH], head), self.held_out[name].labels)[0]
            for name, head in zip(names, heads, strict=True)
        }

    def _pace(self, names: Sequence[str]) -> float:
        """How far AdamW steps in this mixture by how far in that of all, at the median coordinate."""
        weights = np.ones(len(self.vectors.tasks))
        some = only(weights, [self.vectors.tasks.index(name) for name in names])
        return float(np.median(step_sizes(self.vectors, some, "adamw") / step_sizes(self.vectors, weights, "adamw")))


def harm_of(features: Features, target: str, source: str) -> float:
    """What the source does to the target's held-out loss."""
    alone = features.losses(frozenset({target}))[target]
    return features.losses(frozenset({target, source}))[target] - alone


def features_at(course: Course, vectors: Vectors, examples: int, held_out: dict[str, Split]) -> Features:
    """Where a training stands.

    Args:
        course: the training, of classification tasks.
        vectors: of a snapshot there.
        examples: training examples of a task, at most, and held-out ones likewise.
        held_out: texts that losses are told of.
    """
    training, chance = course.training, np.random.default_rng(0)
    roots = torch.cat([_root(training.optimizer, parameter).flatten() for parameter in course.parameters])
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(len(roots), WIDTH, generator=generator) * (roots / WIDTH**0.5)[:, None]
    training.model.eval()

    def of(task: TaskData, split: Split) -> Examples:
        order = chance.permutation(len(split.texts))[:examples].tolist()
        return _examples(course, task, take(split, order), sketch)

    config = training.config
    rates = sum(config.learning_rate * (1 - step / config.steps) for step in range(config.steps))  # linear
    return Features(
        {task.name: of(task, task.train) for task in training.tasks},
        {task.name: of(task, held_out[task.name]) for task in training.tasks},
        rates,
        rates * config.head_learning_rate / config.learning_rate,
        vectors,
    )


def _examples(course: Course, task: TaskData, split: Split, sketch: Tensor) -> Examples:
    training, place = course.training, course.names.index(task.name)
    model = training.model
    weight = next(model.heads[model.owners[place]].parameters())
    lengths = np.argsort([len(text) for text in split.texts], kind="stable")
    root = float(_root(training.optimizer, weight).mean())
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(lengths), AT_ONCE):
        some = take(split, lengths[start : start + AT_ONCE].tolist())
        tokens = tokenize(training.tokenizer, some.texts, some.text_pairs, max_length=training.config.max_length)
        with _of_each_example(course) as gradients:
            pooled = model.pooled(pad(training.tokenizer, tokens, device=training.device))
            logits = model.scores(place, pooled)
            sketches = []
            for column in logits.sum(0):
                column.backward(retain_graph=True)
                sketches.append(gradients() @ sketch)
        ones = torch.ones(len(pooled), 1)
        rows.append((logits.detach(), torch.stack(sketches, 1), root * torch.cat([pooled.detach(), ones], 1)))
    arrays = [torch.cat(of).numpy() for of in zip(*rows, strict=True)]
    return Examples(arrays[0], arrays[1], arrays[2], np.asarray(split.labels, np.int64)[lengths])


@contextmanager
def _of_each_example(course: Course) -> Iterator[Callable[[], Tensor]]:
    """After a backward pass: the gradients of each example by itself, [n, D], of the sum that was gone back from."""
    blocks = course.surgeon.blocks
    arrived: dict[int, Tensor] = {}
    owners = {id(block.parameter): place for place, block in enumerate(blocks)}
    handles = []

    def went_in(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(partial(went_back, owners[id(layer.weight)], inputs[0].detach()))

    def went_back(place: int, inputs: Tensor, gradient: Tensor) -> None:
        arrived[place] = torch.einsum("nto,nti->noi", gradient, inputs).flatten(1)

    for layer in course.training.model.modules():
        if isinstance(layer, nn.Linear) and id(layer.weight) in owners:
            handles.append(layer.register_forward_hook(went_in))
    assert len(handles) == len(blocks)
    try:
        with course.surgeon.collector.looking_away():
            yield lambda: torch.cat([arrived[place] for place in range(len(blocks))], 1)
    finally:
        for handle in handles:
            handle.remove()
        course.training.optimizer.zero_grad()


def _root(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """Root of AdamW's metric, of the parameter's shape."""
    state = optimizer.state[parameter]
    settings = next(of for of in optimizer.param_groups if any(one is parameter for one in of["params"]))
    moment = state["exp_avg_sq"] / (1 - settings["betas"][1] ** float(state["step"]))
    return (moment.sqrt() + settings["eps"]).rsqrt()


def _logits(of: Examples, shared: NDArray[np.float64], head: NDArray[np.float64]) -> NDArray[np.float64]:
    found = of.logits + of.sketches @ shared.astype(np.float32) + of.states @ head.T.astype(np.float32)
    return np.asarray(found, np.float64)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """Its mean, and its gradient with respect to the logits, [n, K]."""
    rows = np.arange(len(labels))
    logarithms = special.log_softmax(logits, axis=1)
    error = np.exp(logarithms)
    error[rows, labels] -= 1
    return float(-logarithms[rows, labels].mean()), error / len(labels)
