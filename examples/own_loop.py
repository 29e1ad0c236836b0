"""OrthoLoRA in a loop of your own: what changes is the line that was `loss.backward()`.

    python examples/own_loop.py              one forward and backward pass a task: any PEFT layer
    python examples/own_loop.py --mixed      one pass for all tasks, at the speed of joint training: plain linear LoRA
    python examples/own_loop.py --record runs/own-loop      also record the conflict, for the dashboard

Two tasks that cannot both be had: the same tokens, with targets of opposite sign.
"""

import argparse
from contextlib import nullcontext

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ortho_lora import OrthoLoRA, Recorder

TASKS = ["up", "down"]
BATCH, LENGTH, WIDTH = 8, 12, 32  # examples of a task, tokens, size of a state


class Regressor(nn.Module):
    """A tiny encoder with an adapter that the tasks share, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=100, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        self.encoder = get_peft_model(BertModel(config), LoraConfig(r=4, target_modules=["query", "value"]))
        self.heads = nn.ModuleDict({task: nn.Linear(WIDTH, 1) for task in TASKS})

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(input_ids=tokens).last_hidden_state.mean(1)  # [examples, WIDTH]

    def loss(self, task: str, states: Tensor, targets: Tensor) -> Tensor:
        return ((self.heads[task](states).squeeze(-1) - targets) ** 2).mean()


def batch(task: str) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 100, (BATCH, LENGTH))
    signal = (tokens < 50).float().mean(1)
    return tokens, signal if task == "up" else -signal


def sequential_step(model: Regressor, surgeon: OrthoLoRA) -> None:
    losses = {}
    for task in TASKS:
        tokens, targets = batch(task)
        losses[task] = model.loss(task, model(tokens), targets)
    surgeon.backward(losses, weights=dict.fromkeys(TASKS, [1] * BATCH))  # losses are means over examples


def mixed_step(model: Regressor, surgeon: OrthoLoRA) -> None:
    batches = {task: batch(task) for task in TASKS}
    task_of_example = [task for task in TASKS for _ in range(BATCH)]
    with surgeon.mixed_batch(task_of_example, weight_of_example=1):
        states = model(torch.cat([tokens for tokens, _ in batches.values()])).split(BATCH)
        losses = {task: model.loss(task, of, batches[task][1]) for task, of in zip(TASKS, states, strict=True)}
        surgeon.backward(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixed", action="store_true", help="one pass for all tasks")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--record", metavar="DIR", help="a new directory for the record")
    given = parser.parse_args()

    torch.manual_seed(0)
    model = Regressor()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    step = mixed_step if given.mixed else sequential_step
    with Recorder(given.record, total=given.steps) if given.record else nullcontext() as recorder:
        surgeon = OrthoLoRA(model, TASKS, optimizer=optimizer, recorder=recorder)
        for _ in range(given.steps):
            step(model, surgeon)
            optimizer.step()
            optimizer.zero_grad()
    for task in TASKS:
        tokens, targets = batch(task)
        print(f"{task}: mean squared error {model.loss(task, model(tokens), targets).item():.3f}")
    if given.record:
        print(f"python -m analysis summary {given.record}")


if __name__ == "__main__":
    main()
