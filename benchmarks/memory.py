"""Peak memory that measuring and projecting add to a joint step, from the allocations that torch's profiler saw.

python benchmarks/memory.py [--tasks 8] [--json]
"""

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from workload import Step, joint, recorded, retained, torchjd, workload

from ortho_lora.surgery import streaming
from ortho_lora.surgery.surgeon import OrthoLoRA

WAYS = {
    "plain joint step": (joint, None),
    "ortho-lora, a block at a time": (recorded, 1),
    "ortho-lora, as it comes": (recorded, streaming.PENDING_BYTES),
    "pcgrad (whole model)": (lambda load: recorded(load, "pcgrad"), streaming.PENDING_BYTES),
    "retained graph, a backward pass a task": (retained, None),
    "torchjd mtl_backward": (torchjd, None),
}


def peak(step: Step, batch: object) -> int:
    """Most bytes that were allocated at a time during a step, above what was before it."""
    step(batch)  # type: ignore[arg-type]
    step(batch)  # type: ignore[arg-type]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(batch)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in memory]
    before = totals[0] - memory[0]["args"]["Bytes"]
    return max(totals) - before


def compare(tasks: int, model: str, batch_size: int) -> pd.DataFrame:
    found = []
    for name, (way, pending) in WAYS.items():
        load = workload(tasks, model=model, batch_size=batch_size, batches=1)
        if pending is not None:
            streaming.PENDING_BYTES = pending
        with way(load) as step:
            found.append({"tasks": tasks, "way": name, "peak_bytes": peak(step, load.batches[0])})
    # A block's T gradients, in the two halves that are measured, and the Gram matrices of all blocks.
    blocks = OrthoLoRA(load.encoder, load.names).blocks
    largest = max(block.parameter.numel() for block in blocks) * tasks * 4
    matrices = len(blocks) * (2 * tasks) ** 2 * 8
    frame = pd.DataFrame(found)
    return frame.assign(
        above_joint=frame["peak_bytes"] - frame["peak_bytes"][0], one_block=largest, gram_matrices=matrices
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--model", default="minilm", help="packaged, or a directory")
    parser.add_argument("--batch-size", type=int, default=16, help="examples a task")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    found = compare(arguments.tasks, arguments.model, arguments.batch_size)
    if arguments.json:
        print(found.to_json(orient="records", indent=2))
        return
    print(found.to_string(index=False))
    print("reach, a block at a time: at most one_block + gram_matrices above_joint, in bytes")


if __name__ == "__main__":
    main()
