"""What memory a snapshot takes where its sums do not fit, and what the sketches kept instead cost in error.

Memory: a model with 40 million LoRA parameters in 448 matrices and 8 tasks, random weights, under the default limit.
Peaks are above what was allocated before, from the allocations that torch's profiler saw: of a snapshot, of its passes
alone, of the same passes where nothing is kept of their gradients, and of plain passes, which leave every `.grad`.

Error: gradients of the default model (24 matrices) on packaged texts after some joint steps, at its own rank and at a
large one, added to exact sums and to sketches as wide as those of the large model, or 8 times. Of the cosines of all
pairs on the whole model, root mean squares over pairs and seeds of the sketch:

- absolute: difference between sketch and exact.
- difference: the same in widths of the exact interval.
- told: standard deviation of the sketch's error that its draws tell, beside which `absolute` is to be held.
- widths: of the interval with a sketch, which knows of that error, in widths of the exact one.

It falls as the root of what is kept of all matrices that carry gradient.

python benchmarks/snapshot_memory.py [--layers 32] [--rank 175] [--tasks 8] [--batches 64] [--ranks 8 64] [--seeds 8]
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd
import torch
from memory import peak
from peft import LoraConfig, PeftMixedModel, PeftModel, get_peft_model
from torch import Tensor, nn
from workload import joint, workload

from ortho_lora import OrthoLoRA
from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.products import across_groups, cosines
from ortho_lora.surgery.adamw import Metric
from ortho_lora.surgery.groups import GROUPS
from ortho_lora.surgery.sketched import left_out
from ortho_lora.surgery.sums import BYTES, Extent, Sums, widths

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WIDTH, ROWS, TASKS = 512, 4, 4
REACH = "reach: sums within the limit; told about absolute; widths <= 1.02"


class Layer(nn.Module):
    """As many linear layers as a decoder's has."""

    def __init__(self) -> None:
        super().__init__()
        for name in MODULES:
            self.add_module(name, nn.Linear(WIDTH, WIDTH))

    def forward(self, states: Tensor) -> Tensor:
        for module in self.children():
            states = states + module(states).tanh()
        return states


def adapted(layers: int, rank: int) -> PeftModel | PeftMixedModel:
    """A model whose passes cost little beside its adapter's."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Layer() for _ in range(layers)))
    return get_peft_model(model, LoraConfig(r=rank, target_modules=list(MODULES), init_lora_weights=False))


def memory(layers: int, rank: int, tasks: int) -> dict[str, float]:
    """Bytes."""
    model, names = adapted(layers, rank), [f"task{place}" for place in range(tasks)]
    surgeon = OrthoLoRA(model, names)
    parameters = [block.parameter for block in surgeon.blocks]
    sizes, extent = [parameter.numel() for parameter in parameters], Extent(GROUPS, tasks, 0)
    kept = widths(sizes, extent, BYTES)
    sums = sum(
        extent.exact_bytes(size) if width is None else extent.sketch_bytes(size, width)
        for size, width in zip(sizes, kept, strict=True)
    )

    def batches() -> Iterator[Tensor]:
        """As many as tell the peak; of all groups, because nobody knows how many will come."""
        yield from (torch.randn(ROWS, WIDTH) for _ in range(2))

    def loss_of(name: str, some: Tensor) -> Tensor:
        return model(some).square().mean()

    def snapshot(batch: object) -> None:
        surgeon.snapshot({name: batches() for name in names}, loss_of)

    def passes(batch: object) -> None:
        """Its passes, and nothing made of the sums."""

        def ending() -> Iterator[Tensor]:
            yield from batches()
            raise EOFError

        with suppress(EOFError):
            surgeon.snapshot({name: ending() if name == names[-1] else batches() for name in names}, loss_of)

    def backward(batch: object) -> None:
        with surgeon.collector.looking_away():
            for some in batches():
                loss_of("", some).backward()

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    above = {
        "snapshot, less its sums": peak(snapshot, None) - sums,
        "its passes, less its sums": peak(passes, None) - sums,
    }
    handles = [parameter.register_post_accumulate_grad_hook(drop) for parameter in parameters]
    above["passes that keep nothing"] = peak(backward, None)
    for handle in handles:
        handle.remove()
    backward(None)
    model.zero_grad()
    above["plain passes"] = peak(lambda batch: (backward(batch), model.zero_grad()), None)
    return {
        "parameters": sum(sizes),
        "blocks": len(sizes),
        "exact sums": sum(map(extent.exact_bytes, sizes)),
        "limit": BYTES,
        "sums": sums,
        "width": min(width or size for width, size in zip(kept, sizes, strict=True)),
        **{f"above: {name}": of for name, of in above.items()},
        "gradients of a batch": 4 * sum(sizes),
        "gradient of a block": 4 * max(sizes),
    }


def estimates(sums: Sums, metric: Metric | None) -> tuple[Cosines, Cosines]:
    """Of all ordered pairs, of the whole model; and the same by the sketch's draws alone."""
    has = (sums.batches > 0).double().numpy()
    products = across_groups(*(of.numpy() for of in sums.products(metric)), (has, has), apart=False)
    widths = np.array([width or np.inf for width in sums.widths])
    groups, drawn = has.sum(0).astype(np.int64), products[:0]
    if not sums.exact:
        drawn = left_out(products[0], widths, len(has))
    alone = left_out(products[0], widths, 0)
    return (
        cosines(np.concatenate([products, drawn]).sum(1), groups),
        cosines(np.concatenate([products[:1], alone]).sum(1), groups),
    )


def errors(rank: int, steps: int, batches: int, width: int, seeds: int) -> list[dict[str, object]]:
    """Sketches of so many seeds, of the same gradients, against exact sums, after so many joint steps."""
    load = workload(TASKS, rank=rank, batch_size=8, batches=max(steps, batches))
    with joint(load) as step:
        for batch in load.batches[:steps]:
            step(batch)
    parameters = [p for name, p in load.encoder.named_parameters() if "lora_" in name]
    extent = Extent(GROUPS, TASKS, 0)

    def fitting(width: int) -> int:
        return sum(extent.sketch_bytes(parameter.numel(), width) for parameter in parameters)

    exact = Sums(parameters, extent, limit_bytes=10**11)
    sketches = {
        wide: [Sums(parameters, extent, seed=seed, limit_bytes=fitting(wide)) for seed in range(seeds)]
        for wide in (width, 8 * width)
        if wide <= parameters[0].numel()
    }
    for place, batch in enumerate(load.batches[:batches]):
        for task in range(TASKS):
            load.model.zero_grad()
            some = batch.part(task, 0, batch.sizes[task])
            some.losses(load.model.loss, load.model.pooled(some.tokens()))[task].backward()
            for sums in (exact, *itertools.chain(*sketches.values())):
                for block, parameter in zip(sums.blocks, parameters, strict=True):
                    assert parameter.grad is not None
                    block.add(task, place % GROUPS, parameter.grad)
                sums.batches[place % GROUPS, task] += 1
    return [
        {
            "rank": rank,
            "of a block": parameters[0].numel(),
            "kept": of[0].widths[0] or parameters[0].numel(),
            "metric": name,
            **compared(exact, of, metric),
        }
        for of in sketches.values()
        for name, metric in (("plain", None), ("adamw", Metric(parameters, None, [1.0] * TASKS)))
    ]


def compared(exact: Sums, sketches: list[Sums], metric: Metric | None) -> dict[str, float]:
    """Of all pairs and sketches."""
    chosen = np.ravel_multi_index(np.triu_indices(TASKS, 1), (TASKS, TASKS))
    (truth, _), *found = (estimates(sums, metric) for sums in (exact, *sketches))
    cosine, *others = (np.clip(of.product / of.scale, -1, 1)[chosen] for of in (truth, *(of for of, _ in found)))
    wide, *widths = (np.subtract(*of.interval()[::-1])[chosen] for of in (truth, *(of for of, _ in found)))
    difference = np.array(others) - cosine
    told = [
        of.product_variance - 2 * now * of.covariance + now**2 * of.scale_variance
        for now, (_, drawn) in zip(others, found, strict=True)
        for of in [drawn.at(chosen)]
    ]
    scales = [of.scale[chosen] for of, _ in found]
    return {
        "interval": float(np.median(wide)),
        "absolute": float(np.sqrt(np.square(difference).mean())),
        "told": float(np.sqrt(np.mean(np.array(told) / np.square(scales)))),
        "difference": float(np.sqrt(np.square(difference / wide).mean())),
        "widths": float(np.sqrt(np.square(np.array(widths) / wide).mean())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rank", type=int, default=175)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="joint ones before the error is measured")
    parser.add_argument("--batches", type=int, default=64, help="of each of 4 tasks, for the error")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64], help="of the default model, for the error")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    taken = memory(given.layers, given.rank, given.tasks)
    width = int(taken["width"])
    if not given.json:
        print("\n".join(f"{name:40}{value:>16,}" for name, value in taken.items()))
    found = [row for rank in given.ranks for row in errors(rank, given.steps, given.batches, width, given.seeds)]
    if given.json:
        print(json.dumps({"reach": REACH, "memory": taken, "errors": found}, default=float))
        return
    print(pd.DataFrame(found).round(4).to_string(index=False))
    print(REACH)


if __name__ == "__main__":
    main()
