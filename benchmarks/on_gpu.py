"""What an accelerator makes of it, in one command of a few minutes; random weights and texts, so it needs no download.

At MiniLM's size (6 layers, 384 wide, LoRA of rank 8 on query and value, float32) and at that of a decoder with 1.2
billion parameters (32 layers, 1536 wide, rank 16 on 7 layers each: 448 matrices, bfloat16):

- a recorded ortho-lora step beside a joint one, and a snapshot beside the forward and backward passes that it makes,
  in turn; the projection of 448 matrices at once; and what each takes of the device's memory at its peak.
- how far the device's numbers are from the CPU's on the same float32 weights (of the decoder: two layers, short texts):
  Gram matrices, in products of the two norms; products of a snapshot, in the largest of their block.

python benchmarks/on_gpu.py [--device cuda] [--rounds 5] [--batches 32] [--json]
python benchmarks/on_gpu.py --device cpu --tiny    # whether it runs
"""

import argparse
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, LlamaConfig, PretrainedConfig

from ortho_lora import OrthoLoRA, Recorder
from ortho_lora.record.snapshots import METRICS, Snapshot
from ortho_lora.surgery.gram import gram
from ortho_lora.surgery.projection import project

TASKS = [f"task{number}" for number in range(4)]
DECODER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REACH = "reach: recorded / joint <= 1.03; snapshot / its passes <= 1.05"


class Size(NamedTuple):
    """A model, and what each task's batch holds."""

    config: PretrainedConfig
    modules: list[str]
    rank: int
    rows: int
    tokens: int
    dtype: torch.dtype


def sizes(*, tiny: bool) -> dict[str, Size]:
    """As of MiniLM and of a decoder; tiny ones to try the program with."""
    layers, width, vocabulary = (2, 32, 100) if tiny else (6, 384, 30522)
    encoder = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4 if tiny else 12,
        intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    layers, width, vocabulary = (2, 32, 100) if tiny else (32, 1536, 32000)
    decoder = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4 if tiny else 16,
        num_key_value_heads=4 if tiny else 16, intermediate_size=2 * width if tiny else 5504,
    )  # fmt: skip
    return {
        "minilm": Size(encoder, ["query", "value"], 8, 2 if tiny else 16, 8 if tiny else 64, torch.float32),
        "decoder": Size(decoder, DECODER, 4 if tiny else 16, 2 if tiny else 8, 8 if tiny else 256, torch.bfloat16),
    }


class Loop:
    """A model with an adapter, and losses of random texts on it."""

    def __init__(self, size: Size, device: torch.device, batches: int) -> None:
        """`batches`: of every task."""
        torch.manual_seed(0)
        with device:
            model = AutoModel.from_config(size.config).to(size.dtype)
            settings = LoraConfig(r=size.rank, target_modules=size.modules, init_lora_weights=False)
            self.model: nn.Module = get_peft_model(model, settings).train()
        generator = torch.Generator().manual_seed(1)
        shape = batches, len(TASKS), size.rows, size.tokens
        self.heads = torch.randn(len(TASKS), size.config.hidden_size, 2, generator=generator).to(device)
        self.texts = torch.randint(size.config.vocab_size, shape, generator=generator).to(device)

    def on(self, device: torch.device) -> "Loop":
        """The same elsewhere."""
        other = deepcopy(self)
        other.model.to(device)
        other.heads, other.texts = other.heads.to(device), other.texts.to(device)
        return other

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def losses(self, texts: Tensor) -> dict[str, Tensor]:
        """Of all tasks in one pass; [T, rows, tokens]."""
        states = self._states(texts.flatten(0, 1)).view(*texts.shape[:2], -1)
        return {name: self._loss(task, states[task]) for task, name in enumerate(TASKS)}

    def loss(self, name: str, texts: Tensor) -> Tensor:
        """Of one; [rows, tokens]."""
        return self._loss(TASKS.index(name), self._states(texts))

    def snapshot(self, surgeon: OrthoLoRA) -> Snapshot:
        """Of all batches."""
        return surgeon.snapshot({name: self.texts[:, task] for task, name in enumerate(TASKS)}, self.loss)

    def _states(self, texts: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=texts).last_hidden_state
        return states.float().mean(1)

    def _loss(self, task: int, states: Tensor) -> Tensor:
        labels = torch.arange(len(states), device=states.device) % 2
        return nn.functional.cross_entropy(states @ self.heads[task], labels)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    ways: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm: int
) -> dict[str, tuple[float, float | None]]:
    """Median milliseconds of each way, in turn with the others, and the bytes that it takes at its peak."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float | None] = dict.fromkeys(ways)
    for turn in range(warm + rounds):
        for name, way in ways.items():
            wait(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            begin = perf_counter()
            way()
            wait(device)
            if turn >= warm:
                times[name].append(1000 * (perf_counter() - begin))
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(device) - before
    return {name: (median(of), peaks[name]) for name, of in times.items()}


def steps(size: Size, device: torch.device, batches: int, rounds: int) -> list[dict[str, object]]:
    """A recorded step and a joint one; a snapshot and its passes."""
    plain, ours = (Loop(size, device, batches) for _ in range(2))
    rows = plain.texts.shape[2]
    task_of_example = [task for task in range(len(TASKS)) for _ in range(rows)]
    optimizers = {loop: torch.optim.AdamW(loop.trained, lr=1e-4) for loop in (plain, ours)}

    def joint() -> None:
        optimizers[plain].zero_grad()
        torch.stack(list(plain.losses(plain.texts[0]).values())).sum().backward()
        optimizers[plain].step()

    def passes() -> None:
        for task, name in enumerate(TASKS):
            for texts in plain.texts[:, task]:
                plain.model.zero_grad()
                plain.loss(name, texts).backward()

    with TemporaryDirectory() as directory, Recorder(Path(directory) / "run") as recorder:
        surgeon = OrthoLoRA(ours.model, TASKS, recorder=recorder, optimizer=optimizers[ours])

        def recorded() -> None:
            optimizers[ours].zero_grad()
            with surgeon.mixed_batch(task_of_example, weight_of_example=1):
                surgeon.backward(ours.losses(ours.texts[0]))
            optimizers[ours].step()

        found = []
        of_steps = {"joint step": joint, "recorded step": recorded}
        of_snapshot = {f"{batches * len(TASKS)} passes": passes, "snapshot of them": lambda: ours.snapshot(surgeon)}
        for ways, times, warm in ((of_steps, 4 * rounds, 3), (of_snapshot, rounds, 1)):
            measured = measure(ways, device, times, warm)
            first = next(iter(measured.values()))[0]
            found += [
                {"way": name, "milliseconds": of[0], "ratio": of[0] / first, "peak_bytes": of[1]}
                for name, of in measured.items()
            ]
    return found


def projections(device: torch.device, blocks: int) -> list[dict[str, object]]:
    """Of random gradients, all blocks at once."""
    found = []
    for tasks in (4, 10):
        matrices = gram(torch.randn(blocks, tasks, 64, device=device))
        name = f"projection of {blocks} blocks, T = {tasks}"
        ((took, peak),) = measure(
            {name: lambda of=matrices: project(of, "pcgrad", [range(of.shape[-1])])}, device, 20, 3
        ).values()
        found.append({"way": name, "milliseconds": took, "ratio": None, "peak_bytes": peak})
    return found


def differences(size: Size, device: torch.device) -> dict[str, float]:
    """Largest ones of the device's numbers to the CPU's, on float32 weights."""
    config = deepcopy(size.config)
    config.num_hidden_layers = min(2, config.num_hidden_layers)
    short = size._replace(config=config, rows=2, tokens=min(32, size.tokens), dtype=torch.float32)
    here = Loop(short, torch.device("cpu"), 8)
    matrices, products = [], []
    for loop in (here, here.on(device)):
        surgeon = OrthoLoRA(loop.model, TASKS)
        with surgeon.mixed_batch([task for task in range(len(TASKS)) for _ in range(short.rows)]):
            measured = surgeon.backward(loop.losses(loop.texts[0]))
        assert measured is not None
        matrices.append(measured.gram.numpy())
        taken = loop.snapshot(surgeon)
        products.append({metric: np.moveaxis(taken.products[metric], 1, 0) for metric in METRICS})  # [N, ...]
        surgeon.remove()
    norms = np.sqrt(np.diagonal(matrices[0], axis1=1, axis2=2))  # [N, T]
    found = {"gram": float((np.abs(matrices[1] - matrices[0]) / (norms[:, :, None] * norms[:, None])).max())}
    for metric in METRICS:
        one, other = (of[metric].reshape(len(norms), -1) for of in products)
        found[f"snapshot, {metric}"] = float((np.abs(other - one).max(1) / np.abs(one).max(1)).max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=32, help="of every task in a snapshot")
    parser.add_argument("--tiny", action="store_true", help="models too small to say anything")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("on_gpu: no CUDA device: --device cpu --tiny tries the program without one")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    begin = perf_counter()
    chosen = sizes(tiny=given.tiny)
    found = [
        {"size": of, **row} for of, size in chosen.items() for row in steps(size, device, given.batches, given.rounds)
    ] + [{"size": "", **row} for row in projections(device, 448)]
    apart = {of: differences(size, device) for of, size in chosen.items()}
    took = perf_counter() - begin
    if given.json:
        head = {"device": name, "torch": torch.__version__, "reach": REACH, "seconds": took}
        print(json.dumps({**head, "results": found, "differences": apart}, indent=1))
        return
    print(f"{name}, torch {torch.__version__}, {took:.0f} s in all")
    print(pd.DataFrame(found).round(3).to_string(index=False))
    print(pd.DataFrame(apart).T.to_string(float_format="{:.1e}".format))
    print(REACH)


if __name__ == "__main__":
    main()
