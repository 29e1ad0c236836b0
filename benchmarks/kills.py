"""Kill runs with SIGKILL, at random moments and in the middle of a write, resume them, and compare with a whole run.

Each kill hits a process of its own that runs `python -m ortho_lora train|resume`, forked from one that has imported
torch and done nothing with it, so that most of the time goes to the runs. After every kill the record must read back
through `analysis`, without a gap and without a row twice.

python benchmarks/kills.py [--kills 24] [--seed 0] [--json]
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow.dataset as ds

import ortho_lora.training.resume  # noqa: F401  so that a forked process starts at once
from analysis.conflict.queries import Selection, projection_by_pair
from analysis.library.runs import open_run
from ortho_lora.__main__ import app
from ortho_lora.record import store
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status
from ortho_lora.record.tables import SCHEMAS, TABLES

SETTINGS = {
    "batch_size": 2, "max_length": 16, "rank": 2, "eval_examples": 8, "eval_every": 8, "checkpoint_every": 3,
    "flush_seconds": 0.02, "threads": 1,
}  # fmt: skip
STEPS = 24
KEYS = {
    "pairs": ["step", "layer", "module", "branch", "task_i", "task_j"],
    "norms": ["step", "layer", "module", "branch", "task"],
    "steps": ["step", "task"],
    "events": ["step", "event", "task"],
    "metrics": ["step", "split", "task", "metric"],
    "predictions": ["step", "split", "task", "example"],
}
store.FEWEST_TOGETHER = 4  # so that parts are put together all the time
AIMS = {  # a temporary file or directory that exists only while this is written
    "random": None,
    "checkpoint": "checkpoint/.state.pt",
    "part": "norms/.part-*",
    "roll-up": "rollup/*/.part-*",
    "manifest": ".manifest.json.*",
    "status": ".status.json.*",
    "adapter": ".adapter",
}


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that runs the command line; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            app(arguments, standalone_mode=False)
            code = 0
        except BaseException as error:  # the parent reads why in the log
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int | None:
    """Exit status of a child; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill_when(pid: int, moment: Callable[[], bool]) -> int | None:
    """Kill a child at a moment; return its exit status where it ended before, and None where it was killed."""
    while (code := ended(pid)) is None:
        if moment():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
    return code


def moment(run_dir: Path, pid: int, aim: str, delay: float) -> Callable[[], bool]:
    """True `delay` seconds after the process trains, and then as soon as what is aimed at is being written."""
    begun: list[float] = []
    last = [0.0]

    def now() -> bool:
        if not begun:
            if time.monotonic() - last[0] > 0.02:
                last[0] = time.monotonic()
                status = read_status(run_dir)
                if status and status.pid == pid and (run_dir / "checkpoint" / "state.pt").exists():
                    begun.append(time.monotonic())
            else:
                time.sleep(0.005)
            return False
        if time.monotonic() - begun[0] < delay:
            time.sleep(0.001)
            return False
        pattern = AIMS[aim]
        time.sleep(0.0002)  # a processor is left to the run
        return pattern is None or any(run_dir.glob(pattern))

    return now


def check_readable(run_dir: Path) -> int:
    """Read a killed run as the dashboard does; return the number of whole steps that it holds."""
    run = open_run(run_dir.parent, run_dir.name)
    if run.state != "lost" or run.problem:
        raise SystemExit(f"{run_dir}: state {run.state}, expected lost; {run.problem}")
    projection_by_pair(run_dir, Selection())
    steps = []
    for name, schema in TABLES.items():
        rows = ds.dataset(part_files(run_dir, name), schema=schema).to_table().to_pylist()
        twice = [
            key for key, times in Counter(tuple(row[key] for key in KEYS[name]) for row in rows).items() if times > 1
        ]
        if twice:
            raise SystemExit(f"{run_dir}: {name} holds {twice[0]} more than once")
        if name not in ("metrics", "predictions", "events"):
            counts = Counter(row["step"] for row in rows)
            if sorted(counts) != list(range(len(counts))) or len(set(counts.values())) > 1:
                raise SystemExit(f"{run_dir}: {name} has a gap: {counts}")
            steps.append(len(counts))
    return min(steps)


def content(run_dir: Path) -> str:
    """A hash of all that a run leaves, but for wall-clock times and the cuts between parts."""
    digest = blake2b(digest_size=16)
    for name, schema in SCHEMAS.items():
        rows = ds.dataset(part_files(run_dir, name), schema=schema).to_table()
        kept = rows.drop_columns("seconds") if name == "steps" else rows
        digest.update(repr(kept.to_pylist()).encode())
    for path in sorted((run_dir / "adapter").rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    kills: list[dict[str, object]] = []
    with TemporaryDirectory() as directory:
        runs_dir = Path(directory)
        log = runs_dir / "output"
        train = [
            "train", "--tasks", "trec,movies", "--steps", str(STEPS), "--runs-dir", str(runs_dir),
            *[f"--set={key}={value}" for key, value in SETTINGS.items()], "--name",
        ]  # fmt: skip

        def finish(pid: int) -> None:
            while (code := ended(pid)) is None:
                time.sleep(0.05)
            if code:
                raise SystemExit(f"exit status {code}: {log.read_text()[-2000:]}")

        finish(start([*train, "whole"], log))
        whole = content(runs_dir / "whole")
        chain = 0
        while len(kills) < given.kills:
            chain += 1
            run_dir = runs_dir / f"killed-{chain}"
            arguments = [*train, run_dir.name]
            while True:
                # Enough is enough: the last chain is let go on to its end.
                aim = chance.choice(["random", *AIMS]) if len(kills) < given.kills else None
                pid = start(arguments, log)
                arguments = ["resume", str(run_dir)]
                if aim is None:
                    finish(pid)
                    break
                code = kill_when(pid, moment(run_dir, pid, aim, chance.uniform(0, 0.6)))
                if code is not None:
                    if code:
                        raise SystemExit(f"exit status {code}: {log.read_text()[-2000:]}")
                    break  # it was faster
                if open_run(runs_dir, run_dir.name).state == "finished":
                    break  # so it was, and only its process was not at its end
                found = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob(".*"))
                kills.append({"run": run_dir.name, "aim": aim, "steps": check_readable(run_dir), "torn": found})
            equal = content(run_dir) == whole
            state = open_run(runs_dir, run_dir.name).state
            if not equal or state != "finished":
                raise SystemExit(f"{run_dir.name}: {state}, {'equal' if equal else 'not equal'} to the whole run")
    if given.json:
        print(json.dumps(kills))
        return
    print(pd.DataFrame(kills).to_string(index=False, max_colwidth=None))
    print(f"{len(kills)} kills, all equal")


if __name__ == "__main__":
    main()
