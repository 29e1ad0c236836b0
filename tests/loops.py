"""A loop of three tasks, to take snapshots of, and its gradients by autograd."""

import numpy as np
import torch
from models import VOCABULARY
from torch import nn

from ortho_lora import OrthoLoRA

TASKS = ["news", "films", "tweets"]
BATCHES = {"news": 20, "films": 19, "tweets": 16}


def texts(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (3, 5), generator=generator) for _ in range(count)]


class Loop:
    """A model and a loss of its own for each task."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        width = self.states(texts(1, 0)[0]).shape[-1]
        self.heads = torch.randn(len(TASKS), width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.batches = {task: texts(count, 10 + place) for place, (task, count) in enumerate(BATCHES.items())}
        self.surgeon = OrthoLoRA(model, TASKS)

    def states(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=batch).last_hidden_state

    def loss(self, task: str, batch: torch.Tensor) -> torch.Tensor:
        return (self.states(batch) @ self.heads[TASKS.index(task)]).square().mean()

    def gradients(self, task: str, batches: list[torch.Tensor]) -> np.ndarray:
        """Of each batch by autograd, one vector over all blocks, [batches, D]."""
        parameters = [block.parameter for block in self.surgeon.blocks]
        found = []
        for batch in batches:
            grads = torch.autograd.grad(self.loss(task, batch), parameters, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(parameters, grads, strict=True)]
            found.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(found).numpy()


def in_groups(gradients: np.ndarray, places: list[int], groups: int) -> np.ndarray:
    """Means of each group, [groups, D]; NaN: no batch."""
    found = np.full((groups, gradients.shape[1]), np.nan)
    for group in set(places):
        found[group] = gradients[np.array(places) == group].mean(axis=0)
    return found
