"""What measuring, projecting and recording add to a plain joint step, and what the same gradients cost otherwise.

python benchmarks/steps.py [--tasks 4 8] [--rounds 2] [--json]
"""

import argparse
import json
from contextlib import ExitStack
from statistics import median

from rich.console import Console
from rich.table import Table
from workload import joint, ratio, recorded, retained, seconds, stamp, torchjd, workload

from ortho_lora.train import TOKENS_OF_A_PASS

WAYS = {
    "plain joint step": joint,
    "recorded ortho-lora step": recorded,
    "retained graph, a backward pass a task": retained,
    "torchjd mtl_backward": torchjd,
    "recorded ortho-lora step, passes by length": lambda load: recorded(load, tokens_of_a_pass=TOKENS_OF_A_PASS["cpu"]),
}
REACH = "reach: recorded / joint <= 1.03; retained and torchjd / recorded >= 2.5 (T = 4), 5 (T = 8)"


def compare(tasks: int, batch_size: int, rounds: int) -> list[dict[str, object]]:
    with ExitStack() as stack:
        loads = {name: workload(tasks, batch_size=batch_size) for name in WAYS}
        steps = {name: stack.enter_context(way(loads[name])) for name, way in WAYS.items()}
        times = seconds(steps, loads["plain joint step"].batches, rounds)
    return [
        {
            "tasks": tasks,
            "way": name,
            "milliseconds": 1000 * median(times[name]),
            "of_joint": ratio(times, name, "plain joint step"),
            "of_recorded": ratio(times, name, "recorded ortho-lora step"),
        }
        for name in WAYS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--rounds", type=int, default=2, help="times that each of 6 batches is stepped")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    found = [row for tasks in arguments.tasks for row in compare(tasks, arguments.batch_size, arguments.rounds)]
    if arguments.json:
        print(json.dumps(stamp() | {"reach": REACH, "results": found}, indent=2))
        return
    table = Table(title=f"A step of the default model, {arguments.batch_size} texts a task", caption=REACH)
    for heading in ("tasks", "way", "ms", "/ joint", "/ recorded"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for row in found:
        table.add_row(
            str(row["tasks"]), str(row["way"]), f"{row['milliseconds']:.0f}",
            f"{row['of_joint']:.3f}", f"{row['of_recorded']:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
