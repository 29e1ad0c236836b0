"""What measuring, projecting and recording add to a plain joint step, and what the same gradients cost otherwise.

python benchmarks/steps.py [--tasks 4 8] [--rounds 2] [--json]
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import pandas as pd
from workload import joint, ratio, recorded, retained, seconds, torchjd, workload

from ortho_lora.training.passes import TOKENS_OF_A_PASS

WAYS = {
    "joint": ("plain joint step", joint),
    "recorded": ("recorded ortho-lora step", recorded),
    "measured": ("ortho-lora step without a recorder", lambda load: recorded(load, to_disk=False)),
    "retained": ("retained graph, a backward pass a task", retained),
    "torchjd": ("torchjd mtl_backward", torchjd),
    "by-length": (
        "recorded ortho-lora step, passes by length",
        lambda load: recorded(load, tokens_of_a_pass=TOKENS_OF_A_PASS["cpu"]),
    ),
}
REACH = (
    "reach: recorded / joint <= 1.03; measured / recorded >= 0.99; "
    "retained and torchjd / recorded >= 2.5 (T = 4), 5 (T = 8)"
)


def compare(tasks: int, model: str, batch_size: int, rounds: int, ways: Sequence[str]) -> list[dict[str, object]]:
    with ExitStack() as stack:
        loads = {name: workload(tasks, model=model, batch_size=batch_size) for name in ways}
        steps = {name: stack.enter_context(WAYS[name][1](loads[name])) for name in ways}
        times = seconds(steps, loads["joint"].batches, rounds)
    return [
        {
            "tasks": tasks,
            "way": WAYS[name][0],
            "milliseconds": 1000 * median(times[name]),
            "of_joint": ratio(times, name, "joint"),
            "of_recorded": ratio(times, name, "recorded"),
        }
        for name in ways
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--model", default="minilm", help="packaged, or a directory")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--rounds", type=int, default=2, help="times that each of 6 batches is stepped")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="joint and recorded always")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    ways = [way for way in WAYS if way in ("joint", "recorded", *arguments.ways)]
    given = (arguments.model, arguments.batch_size, arguments.rounds, ways)
    found = [row for tasks in arguments.tasks for row in compare(tasks, *given)]
    if arguments.json:
        print(json.dumps({"reach": REACH, "results": found}, indent=2))
        return
    print(pd.DataFrame(found).round(3).to_string(index=False))
    print(REACH)


if __name__ == "__main__":
    main()
