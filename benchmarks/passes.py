"""What a pass costs beside its tokens, and what splitting a batch by length therefore saves.

python benchmarks/passes.py [--tasks 4] [--json]
"""

import argparse
import json
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from workload import ONE_PASS, ratio, recorded, seconds, workload

CANDIDATES = (16, 64, 256, 1024, ONE_PASS)


def tokens_of_a_pass(model: str, repeats: int) -> float:
    """Intercept over slope of the time of a forward and backward pass in its tokens."""
    load = workload(1, model=model, batches=1)
    sizes = [(4, 16), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64)]
    best = []
    for texts, length in sizes:
        tokens = {"input_ids": torch.randint(1000, 2000, (texts, length)), "attention_mask": torch.ones(texts, length)}
        times = []
        for _ in range(repeats):
            start = perf_counter()
            load.model.pooled(tokens).sum().backward()
            times.append(perf_counter() - start)
        best.append(min(times))
    slope, intercept = np.polyfit([texts * length for texts, length in sizes], best, 1)
    return float(intercept / slope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--model", default="minilm", help="packaged, or a directory")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--rounds", type=int, default=3, help="times that each of 6 batches is stepped")
    parser.add_argument("--repeats", type=int, default=8, help="times that a pass of each size is timed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    measured = tokens_of_a_pass(arguments.model, arguments.repeats)
    names = {tokens: "one pass" if tokens == ONE_PASS else str(tokens) for tokens in CANDIDATES}
    given = {"model": arguments.model, "batch_size": arguments.batch_size}
    loads = {tokens: workload(arguments.tasks, **given) for tokens in CANDIDATES}
    contexts = {names[tokens]: recorded(load, tokens_of_a_pass=tokens) for tokens, load in loads.items()}
    steps = {name: context.__enter__() for name, context in contexts.items()}
    batches = loads[ONE_PASS].batches
    times = seconds(steps, batches, rounds=arguments.rounds)
    for context in contexts.values():
        context.__exit__(None, None, None)
    rows = [
        {
            "tokens_of_a_pass": names[tokens],
            "passes": float(np.mean([len(batch.passes(tokens)) for batch in batches])),
            "of_one_pass": ratio(times, names[tokens], "one pass"),
        }
        for tokens in CANDIDATES
    ]
    if arguments.json:
        print(json.dumps({"tokens_of_a_pass": measured, "results": rows}, indent=2))
        return
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    print(f"a pass costs as much as {measured:.0f} tokens here")


if __name__ == "__main__":
    main()
