"""How the cost of gradients and of projection grows with the number of tasks and with the rank.

A recorded step is timed beside a joint one on the same batches, and the end of a step (Gram matrices, projection,
correction of `.grad`) by itself.

python benchmarks/scaling.py [--json]
"""

import argparse
import json
from contextlib import ExitStack
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from workload import joint, recorded, seconds, workload

from ortho_lora import OrthoLoRA


def measure(tasks: int, rank: int, model: str, batch_size: int) -> dict[str, float]:
    """Medians in milliseconds of a joint step, a recorded one, and of `project` alone."""
    with ExitStack() as stack:
        plain, ours = (workload(tasks, model=model, rank=rank, batch_size=batch_size, batches=4) for _ in range(2))
        steps = {"joint": stack.enter_context(joint(plain)), "recorded": stack.enter_context(recorded(ours))}
        times = seconds(steps, plain.batches, rounds=2)
    surgeon = OrthoLoRA(ours.encoder, ours.names)
    ends = []
    for batch in ours.batches * 2:
        (everything,) = batch.passes(10**9)
        with surgeon.mixed_batch(everything.task_of_example):
            losses = everything.losses(ours.model.loss, ours.model.pooled(everything.tokens()))
            surgeon.backward({ours.names[task]: loss for task, loss in losses.items()}, accumulate=True)
        start = perf_counter()
        surgeon.project()
        ends.append(perf_counter() - start)
    extra = median(b - a for a, b in zip(times["joint"], times["recorded"], strict=True))
    found = {
        "joint": median(times["joint"]),
        "recorded": median(times["recorded"]),
        "extra": extra,
        "project": median(ends),
    }
    return {"tasks": tasks, "rank": rank, "batch_size": batch_size} | {k: 1000 * v for k, v in found.items()}


def exponent(rows: list[dict[str, float]], axis: str, value: str) -> float:
    """Of the power law that fits best."""
    x, y = (np.log([row[key] for row in rows]) for key in (axis, value))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--model", default="minilm", help="packaged, or a directory")
    parser.add_argument("--batch-size", type=int, default=8, help="examples a task")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    given = (arguments.model, arguments.batch_size)
    by_tasks = [measure(tasks, 8, *given) for tasks in arguments.tasks]
    by_rank = [measure(4, rank, *given) for rank in arguments.ranks]
    exponents = {
        "recorded step in tasks": exponent(by_tasks, "tasks", "recorded"),
        "joint step in tasks": exponent(by_tasks, "tasks", "joint"),
        "projection in tasks": exponent(by_tasks, "tasks", "project"),
        "recorded step in rank": exponent(by_rank, "rank", "recorded"),
        "joint step in rank": exponent(by_rank, "rank", "joint"),
        "projection in rank": exponent(by_rank, "rank", "project"),
    }
    if arguments.json:
        print(json.dumps({"by_tasks": by_tasks, "by_rank": by_rank, "exponents": exponents}, indent=2))
        return
    frame = pd.DataFrame(by_tasks + by_rank)
    print(frame.assign(share=frame["project"] / frame["recorded"]).round(3).to_string(index=False))
    for name, value in exponents.items():
        print(f"{name}: exponent {value:.2f}")


if __name__ == "__main__":
    main()
