"""The default model on packaged tasks, stepped in the ways that the benchmarks compare."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from peft import PeftModel
from torch import Tensor, nn
from torchjd.autojac import mtl_backward

from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.attach import attach
from ortho_lora.training.batches import Batch, TaskSampler
from ortho_lora.training.config import load_config
from ortho_lora.training.model import MultiTaskModel, load_encoder, use_dropout

TASKS = ("trec", "tweets", "movies", "spam", "news", "movies@0.7+head", "spam@0.5+head", "movies@0.3+head")
ONE_PASS = 10**9  # tokens that a pass costs, so that there is one

warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # of torchjd's vmap


@dataclass
class Workload:
    """A model, its tasks and some batches of real text, tokenised."""

    model: MultiTaskModel
    names: list[str]
    batches: list[Batch]

    @property
    def encoder(self) -> PeftModel:
        encoder = self.model.encoder
        assert isinstance(encoder, PeftModel)
        return encoder

    def losses(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Of every task in one pass, and the states that they share."""
        (everything,) = batch.passes(ONE_PASS)
        pooled = self.model.pooled(everything.tokens())
        return list(everything.losses(self.model.loss, pooled).values()), pooled


def workload(tasks: int, *, model: str = "minilm", rank: int = 8, batch_size: int = 16, batches: int = 6) -> Workload:
    """The first `tasks` of TASKS, or as many copies of them as are needed."""
    chosen = [TASKS[index] for index in range(min(tasks, len(TASKS)))]
    extra = [
        {"name": f"movies-{n}", "twin_of": "movies", "rho": n / 20, "own_head": True}
        for n in range(tasks - len(chosen))
    ]
    config = load_config(overrides={"tasks": [*chosen, *extra]})
    data = load_tasks(config.tasks, seed=0)
    encoder, tokenizer = load_encoder(model)
    settings = {"rank": rank, "alpha": 16.0, "dropout": 0.0, "target_modules": None, "seed": 0}
    adapted = attach(encoder, ["default"], **settings)  # type: ignore[arg-type]
    multi_task = MultiTaskModel(
        adapted,
        data,
        width=encoder.config.hidden_size,
        pooling="mean",
        adapters=[range(len(data))],
        generators=[torch.Generator() for _ in data],
    )
    use_dropout(multi_task, encoder=False)
    sampler = TaskSampler(data, batch_size, seed=0)
    drawn = [Batch(data, sampler.next(), tokenizer, 64, torch.device("cpu")) for _ in range(batches)]
    return Workload(multi_task, [task.name for task in data], drawn)


Step = Callable[[Batch], object]


def _optimizer(load: Workload) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in load.model.parameters() if p.requires_grad], lr=1e-4)


@contextmanager
def joint(load: Workload) -> Iterator[Step]:
    """Plain training on the sum of the losses."""
    optimizer = _optimizer(load)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        losses, _ = load.losses(batch)
        torch.stack(losses).sum().backward()
        optimizer.step()

    yield step


@contextmanager
def recorded(
    load: Workload, method: str = "ortho-lora", tokens_of_a_pass: int = ONE_PASS, *, to_disk: bool = True
) -> Iterator[Step]:
    """Ortho-LoRA, recorded to disk or only measured."""
    optimizer = _optimizer(load)
    with TemporaryDirectory() as directory, ExitStack() as stack:
        recorder = stack.enter_context(Recorder(Path(directory) / "run")) if to_disk else None
        surgeon = OrthoLoRA(load.encoder, load.names, method, recorder=recorder, optimizer=optimizer)

        def step(batch: Batch) -> None:
            optimizer.zero_grad()
            passes = batch.passes(tokens_of_a_pass)
            for some in passes:
                with surgeon.mixed_batch(some.task_of_example, some.half_of_example, weight_of_example=1):
                    losses = some.losses(load.model.loss, load.model.pooled(some.tokens()))
                    by_name = {load.names[task]: loss for task, loss in losses.items()}
                    surgeon.backward(by_name, accumulate=some is not passes[-1])
            optimizer.step()

        yield step
        surgeon.remove()


@contextmanager
def retained(load: Workload) -> Iterator[Step]:
    """The tasks' gradients by one backward pass a task over a graph that is kept; no projection, no record."""
    optimizer = _optimizer(load)
    shared = [p for p in load.encoder.parameters() if p.requires_grad]

    def step(batch: Batch) -> list[tuple[Tensor, ...]]:
        optimizer.zero_grad()
        losses, _ = load.losses(batch)
        heads = list(load.model.heads.parameters())
        gradients = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        found = torch.autograd.grad(torch.stack(losses).sum(), heads, allow_unused=True)
        for parameter, gradient in zip(heads, found, strict=True):
            parameter.grad = gradient
        for parameter, by_task in zip(shared, zip(*gradients, strict=True), strict=True):
            parameter.grad = torch.stack(by_task).sum(0)
        optimizer.step()
        return gradients

    yield step


@contextmanager
def torchjd(load: Workload) -> Iterator[Step]:
    """The tasks' gradients by torchjd's `mtl_backward`; no projection, no record."""
    optimizer = _optimizer(load)
    shared = [p for p in load.encoder.parameters() if p.requires_grad]
    heads: Sequence[nn.Module] = list(load.model.heads)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        losses, pooled = load.losses(batch)
        mtl_backward(
            losses, features=pooled, tasks_params=[list(head.parameters()) for head in heads], shared_params=shared
        )
        for parameter in shared:
            parameter.grad = parameter.jac.sum(0)  # type: ignore[attr-defined]
            del parameter.jac  # type: ignore[attr-defined]
        optimizer.step()

    yield step


def seconds(steps: dict[str, Step], batches: Sequence[Batch], rounds: int) -> dict[str, list[float]]:
    """Times of each way of stepping, in turn on the same batch, so that what else the machine does hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(batches[0])  # warms up, and verifies
    names = list(steps)
    for turn in range(rounds):
        for place, batch in enumerate(batches):
            shift = (turn * len(batches) + place) % len(names)
            for name in names[shift:] + names[:shift]:
                start = perf_counter()
                steps[name](batch)
                times[name].append(perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Median over batches of the ratio of two ways' times."""
    return median(a / b for a, b in zip(times[one], times[other], strict=True))
