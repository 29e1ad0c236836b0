"""Which examples a step sees: every task a batch of its own, from a seeded generator of its own."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ortho_lora.model import tokenize
from ortho_lora.tasks import Split, TaskData
from ortho_lora.tasks.data import take


def seed_of(seed: int, *purpose: str) -> int:
    """A seed for one purpose, so that adding a task changes nothing for the others."""
    digest = hashlib.blake2b("\0".join((str(seed), *purpose)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


class Sampler:
    """Endless batches of indices: every example once in each round, reshuffled for the next one."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting: list[int] = []

    def next(self) -> list[int]:
        while len(self.waiting) < self.batch_size:
            self.waiting += torch.randperm(self.examples, generator=self.generator).tolist()
        batch, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        return batch


class TaskSampler:
    """Batches of all tasks; a twin draws the examples that its original draws."""

    def __init__(self, tasks: Sequence[TaskData], batch_size: int, seed: int) -> None:
        self.sources = [task.twin_of or task.name for task in tasks]
        self.samplers = {
            task.name: Sampler(len(task.train), batch_size, seed_of(seed, "batches", task.name))
            for task in tasks
            if task.twin_of is None
        }

    def next(self) -> list[list[int]]:
        """Indices into each task's training split."""
        drawn = {name: sampler.next() for name, sampler in self.samplers.items()}
        return [drawn[source] for source in self.sources]


class Batch:
    """Examples of some tasks, to be encoded together or a slice at a time.

    Dynamic padding: a pass is as long as the longest text in it.
    """

    def __init__(
        self,
        tasks: Sequence[TaskData],
        indices: Sequence[Sequence[int]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        device: torch.device,
    ) -> None:
        self.tokenizer, self.max_length, self.device = tokenizer, max_length, device
        self.splits = [take(task.train, chosen) for task, chosen in zip(tasks, indices, strict=True)]
        self.labels = [torch.from_numpy(split.labels).to(device) for split in self.splits]
        self.sizes = [len(split) for split in self.splits]

    @property
    def task_of_example(self) -> list[int]:
        """Of the examples of `together`."""
        return [task for task, size in enumerate(self.sizes) for _ in range(size)]

    def together(self) -> dict[str, Tensor]:
        """Tokens of all tasks' examples, in the order of the tasks."""
        return self._tokens(self.splits)

    def part(self, task: int, rows: slice) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens and labels of a slice of one task's examples."""
        split = self.splits[task]
        chosen = range(len(split))[rows]
        return self._tokens([take(split, chosen)]), self.labels[task][rows]

    def _tokens(self, splits: Sequence[Split]) -> dict[str, Tensor]:
        texts = [text for split in splits for text in split.texts]
        pairs: list[str | None] = []
        for split in splits:
            pairs += split.text_pairs or [None] * len(split)
        return tokenize(self.tokenizer, texts, pairs, max_length=self.max_length, device=self.device)


def padding_waste(
    tasks: Sequence[TaskData], batch_size: int, max_length: int, tokenizer: PreTrainedTokenizerBase, seed: int
) -> float:
    """Tokens of a fused pass over tokens of one pass a task, estimated on a few steps' batches: 1 is no waste."""
    sampler = TaskSampler(tasks, batch_size, seed)
    fused = apart = 0
    for _ in range(8):
        longest = []
        for task, indices in zip(tasks, sampler.next(), strict=True):
            split = take(task.train, indices)
            rows = tokenizer(split.texts, split.text_pairs, truncation=True, max_length=max_length)["input_ids"]
            longest.append(max(map(len, rows)))
        fused += len(tasks) * batch_size * max(longest)
        apart += batch_size * sum(longest)
    return fused / apart
