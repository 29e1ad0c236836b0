"""All blocks' projections at once, against looping over the blocks with torchjd's weighting of the same method.

python benchmarks/projection.py [--blocks 448] [--json]
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from timeit import repeat

import pandas as pd
import torch
from torch import Tensor
from torchjd.aggregation import GradVacWeighting, PCGradWeighting

from ortho_lora.surgery.gram import gram
from ortho_lora.surgery.projection import GRADVAC_BETA, project

REACH = 50  # times as fast, for pcgrad


def looped_pcgrad(matrices: Tensor) -> None:
    weighting = PCGradWeighting()
    for matrix in matrices:
        weighting(matrix)


def looped_gradvac(matrices: Tensor) -> None:
    for matrix in matrices:
        GradVacWeighting(GRADVAC_BETA)(matrix)  # one a block: each keeps the block's targets


LOOPS: dict[str, Callable[[Tensor], None]] = {"pcgrad": looped_pcgrad, "gradvac": looped_gradvac}


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of a run, after one to warm up."""
    return 1000 * median(repeat(run, number=1, repeat=1 + repeats)[1:])


def compare(rule: str, tasks: int, blocks: int) -> dict[str, str | float]:
    """Times of both on Gram matrices of random gradients, of which about half the pairs conflict."""
    generator = torch.Generator().manual_seed(tasks)
    matrices = gram(torch.randn(blocks, tasks, 64, generator=generator, dtype=torch.float64))  # [blocks, T, T]
    batched = milliseconds(lambda: project(matrices, rule, [range(tasks)]), repeats=50)
    looped = milliseconds(lambda: LOOPS[rule](matrices), repeats=5)
    return {"rule": rule, "tasks": tasks, "batched_ms": batched, "looped_ms": looped, "ratio": looped / batched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=448, help="LoRA matrices, as of 32 layers with 7 adapted each")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [compare(rule, tasks, arguments.blocks) for rule in LOOPS for tasks in (4, 10)]
    if arguments.json:
        print(json.dumps({"blocks": arguments.blocks, "reach_pcgrad": REACH, "results": found}, indent=2))
        return
    print(pd.DataFrame(found).round(2).to_string(index=False))
    print(f"reach for pcgrad: {REACH} times as fast")


if __name__ == "__main__":
    main()
