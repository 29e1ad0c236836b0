"""What a snapshot of n batches costs beside n joint forward-backward passes over the very same batches.

A snapshot makes a pass a task, so it pads less than one joint pass over all tasks; `passes by length` are those that
`train` makes, and `a pass a task` those of the snapshot itself with nothing kept of their gradients. No way takes an
optimizer's step. The end of a snapshot (`products`, of both metrics) is in its time, and timed by itself too. Times are
those of the processor, which other work beside this one changes less.

python benchmarks/snapshot_cost.py [--tasks 4] [--batches 32] [--batch-size 16] [--rounds 3] [--json]
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import process_time

import pandas as pd
from torch import Tensor
from workload import ONE_PASS, Workload, ratio, seconds, workload

from ortho_lora import OrthoLoRA
from ortho_lora.surgery.adamw import Metric
from ortho_lora.surgery.groups import GROUPS
from ortho_lora.surgery.sums import Extent, Sums
from ortho_lora.training.batches import Batch
from ortho_lora.training.session import TOKENS_OF_A_PASS

REACH = "reach: snapshot / joint <= 1.05"


def passes(load: Workload, tokens_of_a_pass: int) -> Callable[[list[Batch]], None]:
    """Forward and backward over each batch, in passes that mix tasks."""

    def run(batches: list[Batch]) -> None:
        for batch in batches:
            load.model.zero_grad()
            for some in batch.passes(tokens_of_a_pass):
                losses = some.losses(load.model.loss, load.model.pooled(some.tokens()))
                sum(losses.values(), start=Tensor([0.0])).backward()

    return run


def alone(load: Workload, task: int, batch: Batch) -> Tensor:
    """The loss of a task on its texts."""
    some = batch.part(task, 0, batch.sizes[task])
    return some.losses(load.model.loss, load.model.pooled(some.tokens()))[task]


def passes_by_task(load: Workload) -> Callable[[list[Batch]], None]:
    """A forward and a backward pass over each task's texts in each batch."""

    def run(batches: list[Batch]) -> None:
        for task in range(len(load.names)):
            for batch in batches:
                load.model.zero_grad()
                alone(load, task, batch).backward()

    return run


def snapshots(load: Workload) -> Callable[[list[Batch]], None]:
    """A snapshot of these batches."""
    surgeon = OrthoLoRA(load.encoder, load.names)
    place = {name: index for index, name in enumerate(load.names)}

    def run(batches: list[Batch]) -> None:
        surgeon.snapshot(dict.fromkeys(load.names, batches), lambda name, batch: alone(load, place[name], batch))

    return run


def products(load: Workload, groups: int) -> float:
    """Seconds that the end of a snapshot takes."""
    parameters = [block.parameter for block in OrthoLoRA(load.encoder, load.names).blocks]
    sums = Sums(parameters, Extent(groups, len(load.names), 0))
    sums.batches += 1
    for block, parameter in zip(sums.blocks, parameters, strict=True):
        for group in range(groups):
            for task in range(len(load.names)):
                block.add(task, group, parameter)
    begin = process_time()
    sums.products()
    sums.products(Metric(parameters, None, [1.0] * len(load.names)))
    return process_time() - begin


def compare(tasks: int, batches: int, batch_size: int, rounds: int) -> pd.DataFrame:
    load, ours = (workload(tasks, batch_size=batch_size, batches=batches) for _ in range(2))
    ways = {
        "joint, one pass a batch": passes(load, ONE_PASS),
        "joint, passes by length": passes(load, TOKENS_OF_A_PASS["cpu"]),
        "a pass a task": passes_by_task(load),
        "snapshot": snapshots(ours),
    }
    times = seconds(ways, [load.batches], rounds, process_time)
    rows = [
        {"way": name, "milliseconds_a_batch": 1000 * median(of) / batches}
        | {
            f"of_{short}": ratio(times, name, way)
            for short, way in zip(("joint", "lengths", "tasks"), ways, strict=False)
        }
        for name, of in times.items()
    ]
    end = 1000 * median(products(ours, min(GROUPS, batches)) for _ in range(1 + rounds)) / batches
    return pd.DataFrame([*rows, {"way": "products, of the snapshot", "milliseconds_a_batch": end}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--batches", type=int, default=32, help="of every task")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    found = compare(arguments.tasks, arguments.batches, arguments.batch_size, arguments.rounds)
    if arguments.json:
        print(
            json.dumps({"reach": REACH, "results": found.astype(object).where(found.notna(), None).to_dict("records")})
        )
        return
    print(found.round(3).to_string(index=False))
    print(REACH)


if __name__ == "__main__":
    main()
