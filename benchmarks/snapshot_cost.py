"""What a snapshot of n batches costs beside n joint forward-backward passes over the very same batches.

A snapshot goes through the tasks one by one, and in `train` of each through passes by length, as a joint step does over
all tasks together; `its own passes` are the same with nothing kept of their gradients. No way takes an optimizer's
step. Ways take turns batch by batch. The end of a snapshot (`products`, of both metrics) is in its time, and timed by
itself too. Times are those of the processor, which other work on the machine changes less.

python benchmarks/snapshot_cost.py [--tasks 4] [--batches 32] [--batch-size 16] [--rounds 3] [--json]
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import process_time

import pandas as pd
import torch
from torch import Tensor
from workload import ONE_PASS, Workload, workload

from ortho_lora import OrthoLoRA
from ortho_lora.surgery.adamw import Metric
from ortho_lora.surgery.groups import GROUPS
from ortho_lora.surgery.sums import Extent, Sums
from ortho_lora.training.batches import Batch, Pass, split_by_length
from ortho_lora.training.passes import TOKENS_OF_A_PASS

REACH = "reach: snapshot / joint, one pass a batch <= 1.05"
SNAPSHOT = "snapshot"


Way = Callable[[Batch, int], None]


def joint(load: Workload, tokens_of_a_pass: int) -> Way:
    """Forward and backward over a batch of all tasks, when its first task comes, in passes that mix tasks."""

    def run(batch: Batch, task: int) -> None:
        load.model.zero_grad()
        for some in batch.passes(tokens_of_a_pass) if task == 0 else ():
            losses = some.losses(load.model.loss, load.model.pooled(some.tokens()))
            torch.stack(list(losses.values())).sum().backward()

    return run


def alone(load: Workload, batch: Batch, task: int) -> Tensor:
    """The loss of a task on its texts of a batch."""
    lengths = [len(row["input_ids"]) for row in batch._rows[task]]
    parts = split_by_length(lengths, TOKENS_OF_A_PASS["cpu"])
    passes = [Pass(batch, [(task, place) for place in part]) for part in parts]
    found = [some.losses(load.model.loss, load.model.pooled(some.tokens()))[task] for some in passes]
    return torch.stack(found).sum()


def by_task(load: Workload) -> Way:
    """Forward and backward over a task's texts of a batch."""

    def run(batch: Batch, task: int) -> None:
        load.model.zero_grad()
        alone(load, batch, task).backward()

    return run


def seconds(ours: Workload, batches: list[Batch], ways: Mapping[str, Way]) -> dict[str, float]:
    """Of a snapshot, before each pass of which the other ways take the same batch."""
    spent = dict.fromkeys((*ways, SNAPSHOT), 0.0)

    def drawn(task: int) -> Iterator[Batch]:
        for batch in batches:
            for name, way in ways.items():
                begin = process_time()
                way(batch, task)
                spent[name] += process_time() - begin
            yield batch

    surgeon = OrthoLoRA(ours.encoder, ours.names)
    place = {name: index for index, name in enumerate(ours.names)}
    begin = process_time()
    surgeon.snapshot(
        {name: drawn(task) for name, task in place.items()}, lambda name, batch: alone(ours, batch, place[name])
    )
    spent[SNAPSHOT] = process_time() - begin - sum(spent.values())
    surgeon.remove()
    return spent


def products(ours: Workload) -> float:
    """Seconds that the end of a snapshot takes."""
    parameters = [block.parameter for block in OrthoLoRA(ours.encoder, ours.names).blocks]
    sums = Sums(parameters, Extent(GROUPS, len(ours.names), 0))
    sums.batches += 1
    for block, parameter in zip(sums.blocks, parameters, strict=True):
        for group in range(GROUPS):
            for task in range(len(ours.names)):
                block.add(task, group, parameter)
    begin = process_time()
    sums.products()
    sums.products(Metric(parameters, None, [1.0] * len(ours.names)))
    return process_time() - begin


def compare(tasks: int, model: str, batches: int, batch_size: int, rounds: int) -> pd.DataFrame:
    plain, ours = (workload(tasks, model=model, batch_size=batch_size, batches=batches) for _ in range(2))
    ways = {
        "joint, one pass a batch": joint(plain, ONE_PASS),
        "joint, passes by length": joint(plain, TOKENS_OF_A_PASS["cpu"]),
        "its own passes": by_task(plain),
    }
    seconds(ours, ours.batches[:1], ways)  # warms up
    found = pd.DataFrame([seconds(ours, ours.batches, ways) for _ in range(rounds)])
    rows = {
        name: {"way": name, "milliseconds_a_batch": 1000 * found[name].median() / batches}
        | {f"of {way}": (found[name] / found[way]).median() for way in ways}
        for name in found
    }
    end = 1000 * median(products(ours) for _ in range(1 + rounds)) / batches
    return pd.DataFrame([*rows.values(), {"way": "products, at its end", "milliseconds_a_batch": end}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--model", default="minilm", help="packaged, or a directory")
    parser.add_argument("--batches", type=int, default=32, help="of every task")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    found = compare(arguments.tasks, arguments.model, arguments.batches, arguments.batch_size, arguments.rounds)
    if arguments.json:
        print(
            json.dumps({"reach": REACH, "results": found.astype(object).where(found.notna(), None).to_dict("records")})
        )
        return
    print(found.round(3).to_string(index=False))
    print(REACH)


if __name__ == "__main__":
    main()
