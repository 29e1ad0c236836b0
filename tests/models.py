"""Small randomly initialised models with LoRA, in float64 so that sums in another order agree closely."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, LlamaConfig, LlamaModel, T5Config, T5Model

from ortho_lora.surgery.blocks import blocks

VOCABULARY = 50
WIDTH = 16
LENGTH = 6


def with_lora(model: nn.Module, targets: list[str], **lora: object) -> PeftModel:
    """LoRA whose B is not zero, so that A has gradients."""
    settings = {"r": 3, "lora_alpha": 6, "target_modules": targets, "lora_dropout": 0.0} | lora
    adapted = get_peft_model(model, LoraConfig(**settings)).double()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            nn.init.normal_(parameter, std=0.3)
    return adapted.eval()


def tiny_bert(seed: int = 0, layers: int = 2, **lora: object) -> PeftModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    return with_lora(BertModel(config, add_pooling_layer=False), ["query", "value"], **lora)


def tiny_albert(seed: int = 0) -> PeftModel:
    """All of its layers are one layer."""
    torch.manual_seed(seed)
    config = AlbertConfig(
        vocab_size=VOCABULARY, embedding_size=8, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    return with_lora(AlbertModel(config, add_pooling_layer=False), ["query", "value"])


def tiny_llama(seed: int = 0, **lora: object) -> PeftModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_key_value_heads=1,
    )  # fmt: skip
    return with_lora(LlamaModel(config), lora.pop("targets", ["q_proj", "down_proj"]), **lora)


def tiny_t5(seed: int = 0) -> PeftModel:
    torch.manual_seed(seed)
    config = T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return with_lora(T5Model(config), ["q", "v"])


class Convolution(nn.Module):
    """Tokens to pictures of one row, convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.conv(self.embedding(input_ids).mT).tanh().mT)


def convolution(seed: int = 0, **lora: object) -> PeftModel:
    torch.manual_seed(seed)
    return with_lora(Convolution(), ["conv", "out"], **lora)


ON_PARAMETERS = "target_parameters" in inspect.signature(LoraConfig).parameters  # not in peft 0.15


def states_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """`[N, L, width]` of tokens `[N, L]`."""
    output = model(input_ids=tokens)
    return output if isinstance(output, Tensor) else output.last_hidden_state


def translated(model: nn.Module, tokens: Tensor) -> Tensor:
    """The decoder's states of an encoder-decoder."""
    return model(input_ids=tokens, decoder_input_ids=tokens.flip(1)).last_hidden_state


def checkpoint(model: nn.Module, reentrant: bool) -> None:
    """Let a model of transformers compute its activations again in the backward pass."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # in transformers 4
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": reentrant})


@dataclass
class Problem:
    """A model and the batches of tasks `a`, `b`, ..., each with a target of its own."""

    model: nn.Module
    sizes: list[int]
    states: Callable[[nn.Module, Tensor], Tensor] = states_of
    seed: int = 0
    directions: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.tasks = [chr(ord("a") + task) for task in range(len(self.sizes))]
        self.tokens = [torch.randint(1, VOCABULARY, (size, LENGTH), generator=generator) for size in self.sizes]
        self.directions = torch.randn(len(self.sizes), WIDTH, generator=generator, dtype=torch.float64)
        self.targets = [torch.randn(size, generator=generator, dtype=torch.float64) for size in self.sizes]

    @property
    def blocks(self):
        return blocks(self.model)

    @property
    def task_of_example(self) -> list[int]:
        return [task for task, size in enumerate(self.sizes) for _ in range(size)]

    def error(self, task: int, states: Tensor, rows: slice = slice(None)) -> Tensor:
        """Mean squared error of a task's examples, whose states [n, L, width] are given."""
        direction = self.directions[task].to(states.dtype)
        return ((states.mean(1) @ direction - self.targets[task][rows].to(states.dtype)) ** 2).mean()

    def loss(self, task: int, rows: slice = slice(None)) -> Tensor:
        """On a graph of its own."""
        return self.error(task, self.states(self.model, self.tokens[task][rows]), rows)

    def losses(self, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {task: self.loss(self.tasks.index(task)) for task in tasks or self.tasks}

    def mixed_losses(self) -> dict[str, Tensor]:
        """On one graph."""
        states = self.states(self.model, torch.cat(self.tokens)).split(self.sizes)
        return {
            name: self.error(task, of_task) for task, (name, of_task) in enumerate(zip(self.tasks, states, strict=True))
        }

    def autograd(self, task: int, rows: slice = slice(None)) -> list[Tensor]:
        """A task's gradient on every block."""
        parameters = [block.parameter for block in self.blocks]
        found = torch.autograd.grad(self.loss(task, rows), parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def gradients(self) -> list[Tensor]:
        """Of every block, `[T, P]`."""
        by_task = [self.autograd(task) for task in range(len(self.sizes))]
        return [torch.stack(of_block).flatten(1) for of_block in zip(*by_task, strict=True)]

    def checkpoint(self, reentrant: bool) -> None:
        """Train with activations that are computed again, and without dropout."""
        self.model.enable_input_require_grads()
        self.model.train()
        checkpoint(self.model.get_base_model(), reentrant)
        for part in self.model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            elif hasattr(part, "dropout_prob"):  # of attention, in transformers 4
                part.dropout_prob = 0.0

    def zero(self) -> None:
        self.model.zero_grad()

    def grads(self) -> list[Tensor]:
        """`.grad` of every block."""
        return [block.parameter.grad.clone() for block in self.blocks]
