"""How a training goes forward and backward: a step's batches of every task, and a snapshot's one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ortho_lora.errors import OrthoLoraError, OwnPassError
from ortho_lora.surgery.measure import Measured
from ortho_lora.tasks.data import TaskData, take
from ortho_lora.training.adapters import Group
from ortho_lora.training.batches import Batch, Pass, seed_of, split_by_length
from ortho_lora.training.config import Config
from ortho_lora.training.model import MultiTaskModel, pad, tokenize
from ortho_lora.training.snapshots import Drawn

# What a pass costs beside its tokens, in tokens (benchmarks/passes.py).
TOKENS_OF_A_PASS = {"cpu": 64, "accelerator": 4096}


@dataclass(frozen=True)
class Passes:
    """What is the same in all of them."""

    config: Config
    tasks: Sequence[TaskData]
    model: MultiTaskModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    mode: str  # of `gradient_mode`

    def measure(
        self,
        group: Group,
        indices: Sequence[Sequence[int]],
        *,
        without: str | None = None,
        chance: int | None = None,
    ) -> Measured:
        """Set the gradients of a group's blocks and heads, and return what was measured of them.

        Args:
            group: whose adapter is active.
            indices: by task, of all the training's tasks, of its training examples.
            without: a task that takes no part. What drops out of the others' examples is the same.
            chance: seed of dropout; None: as the generator stands.
        """
        surgeon = group.surgeon
        batch = Batch(
            [self.tasks[t] for t in group.tasks], [indices[t] for t in group.tasks],
            self.tokenizer, self.config.max_length, self.device,
        )  # fmt: skip

        def losses(some: Pass, number: int) -> dict[str, Tensor]:
            if chance is not None:
                torch.manual_seed(seed_of(chance, str(number)))
            with self._autocast():
                pooled = self.model.pooled(some.tokens())
                found = some.losses(lambda place, *of: self.model.loss(group.tasks[place], *of), pooled)
            return {name: loss for place, loss in found.items() if (name := surgeon.tasks[place]) != without}

        if self.mode == "fused":
            # Whoever takes no part stays in the passes of others, whose dropout would be another without it.
            passes = [
                (number, some)
                for number, some in enumerate(batch.passes(self._tokens))
                if any(surgeon.tasks[place] != without for place in some.places)
            ]
            for number, some in passes:
                try:
                    with surgeon.mixed_batch(some.task_of_example, some.half_of_example, weight_of_example=1):
                        measured = surgeon.backward(losses(some, number), accumulate=some is not passes[-1][1])
                except OwnPassError as error:
                    raise error.said_to("set gradient_mode: sequential, which gives each task its own pass") from error
        else:
            split = not all(block.plain for block in surgeon.blocks)  # only a pass each tells the halves apart
            for place, size in enumerate(batch.sizes):
                if surgeon.tasks[place] == without:
                    continue
                middle = size // 2 if split else 0
                for half, (start, end) in enumerate([(0, middle), (middle, size)]):
                    if end > start:
                        ((name, loss),) = losses(batch.part(place, start, end), 2 * place + half).items()
                        weight = end - start if split else [1] * (end - start)
                        surgeon.backward_part(name, loss, half=half if split else None, weight=weight)
            measured = surgeon.project()
        assert measured is not None
        return measured

    def loss(self, name: str, drawn: Drawn) -> Tensor:
        """The mean loss of a task on some examples, on a graph."""
        split = take(*drawn)
        rows = tokenize(self.tokenizer, split.texts, split.text_pairs, max_length=self.config.max_length)
        parts = split_by_length([len(row["input_ids"]) for row in rows], self._tokens)
        labels = torch.from_numpy(split.labels[list(chain(*parts))]).to(self.device)
        with self._autocast():
            inputs = (pad(self.tokenizer, [rows[index] for index in part], device=self.device) for part in parts)
            pooled = torch.cat([self.model.pooled(some) for some in inputs])
            return self.model.loss([task.name for task in self.tasks].index(name), pooled, labels)

    @property
    def _tokens(self) -> int:
        return TOKENS_OF_A_PASS["cpu" if self.device.type == "cpu" else "accelerator"]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


def gradient_mode(config: Config, groups: Sequence[Group]) -> str:
    """Whether tasks share a pass (`fused`) or have one each (`sequential`).

    Raises:
        OrthoLoraError: they are to share one, and a layer cannot serve it.
    """
    special = sorted({block.module for group in groups for block in group.surgeon.blocks if not block.plain})
    if config.gradient_mode == "fused" and special:
        raise OrthoLoraError(
            f"gradient_mode 'fused' needs plain LoRA linear layers, and {', '.join(special)} are not: use 'sequential'."
        )
    if config.gradient_mode == "auto":
        return "sequential" if special else "fused"
    return config.gradient_mode
