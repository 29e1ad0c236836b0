"""Which examples a step sees: every task a batch of its own, from a seeded generator of its own."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ortho_lora.tasks.data import TaskData, take
from ortho_lora.training.model import pad, tokenize


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

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state(), "waiting": torch.tensor(self.waiting, dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])
        self.waiting = state["waiting"].tolist()


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

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What it takes to draw on where this one is."""
        return {name: sampler.state_dict() for name, sampler in self.samplers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from `state_dict`."""
        for name, sampler in self.samplers.items():
            sampler.load_state_dict(state[name])


class Batch:
    """Examples of some tasks, to be encoded in passes that each mix examples of like length, or one task at a time.

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
        self.tokenizer, self.device = tokenizer, device
        splits = [take(task.train, chosen) for task, chosen in zip(tasks, indices, strict=True)]
        self._labels = [torch.from_numpy(split.labels) for split in splits]
        self._rows = [tokenize(tokenizer, split.texts, split.text_pairs, max_length=max_length) for split in splits]
        self.sizes = [len(split) for split in splits]

    def passes(self, tokens_of_a_pass: int) -> list["Pass"]:
        """All examples, in as many passes as cost least; each example in the half of its batch where it was drawn."""
        places = [(task, place) for task, size in enumerate(self.sizes) for place in range(size)]
        lengths = [len(self._rows[task][place]["input_ids"]) for task, place in places]
        return [
            Pass(self, [places[index] for index in sorted(indices)])
            for indices in split_by_length(lengths, tokens_of_a_pass)
        ]

    def part(self, task: int, start: int, end: int) -> "Pass":
        """A pass over some of one task's examples."""
        return Pass(self, [(task, place) for place in range(start, end)])


class Pass:
    """N examples of a batch, in the order of the tasks."""

    def __init__(self, batch: Batch, examples: Sequence[tuple[int, int]]) -> None:
        self.batch = batch
        self.places: dict[int, list[int]] = {}  # task -> places among the examples of its batch
        for task, place in examples:
            self.places.setdefault(task, []).append(place)

    @property
    def task_of_example(self) -> list[int]:
        return [task for task, places in self.places.items() for _ in places]

    @property
    def half_of_example(self) -> list[int]:
        sizes = self.batch.sizes
        return [int(place >= sizes[task] // 2) for task, places in self.places.items() for place in places]

    def tokens(self) -> dict[str, Tensor]:
        """Padded to the longest of them: `[N, L]` each."""
        rows = [self.batch._rows[task][place] for task, places in self.places.items() for place in places]
        return pad(self.batch.tokenizer, rows, device=self.batch.device)

    def losses(self, loss: Callable[[int, Tensor, Tensor], Tensor], pooled: Tensor) -> dict[int, Tensor]:
        """What these examples contribute to the mean loss of each task's batch.

        Args:
            loss: of a task, its examples' states and labels, a mean over examples.
            pooled: `[N, width]`, the states.
        """
        by_task = pooled.split([len(places) for places in self.places.values()])
        contributions = {}
        for (task, places), states in zip(self.places.items(), by_task, strict=True):
            labels = self.batch._labels[task][places].to(self.batch.device, non_blocking=True)
            contributions[task] = len(places) / self.batch.sizes[task] * loss(task, states, labels)
        return contributions


def split_by_length(lengths: Sequence[int], tokens_of_a_pass: int) -> list[list[int]]:
    """Split examples into passes so that padding and passes together cost least.

    A pass over n texts, the longest of L tokens, costs `n L + tokens_of_a_pass`. Longest texts come first.

    Args:
        lengths: tokens of each text, at least one text.
        tokens_of_a_pass: what a pass costs beside its tokens, in tokens.

    Returns:
        Indices of the texts in each pass.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    ends = [  # a pass ends where a shorter text follows, or none
        place
        for place in range(1, len(by_length) + 1)
        if place == len(by_length) or lengths[by_length[place]] < lengths[by_length[place - 1]]
    ]
    best: dict[int, tuple[int, int]] = {0: (0, 0)}  # texts so far -> cost, and where the last pass starts
    for end in ends:
        best[end] = min(
            (cost + (end - start) * lengths[by_length[start]] + tokens_of_a_pass, start)
            for start, (cost, _) in best.items()
        )
    passes = []
    end = len(by_length)
    while end:
        start = best[end][1]
        passes.append(by_length[start:end])
        end = start
    return passes[::-1]
