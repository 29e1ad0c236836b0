"""Fifty tasks end to end: what a run, its snapshot and the questions to it take beside a run of ten.

    python benchmarks/many_tasks.py --folder DIRECTORY
    python benchmarks/many_tasks.py --folder DIRECTORY --data DIRECTORY
    python benchmarks/pages.py --large DIRECTORY/of-50/run    # its pages in a browser

Tasks are made of real ones: a class against the rest, and disjoint parts of what has two classes. A row a number of
tasks: CPU seconds of a training, of its snapshot (the training with it less the one without) and of the two questions,
and their peak memory. *Each* is what the largest takes for a task over what the smallest does: 1 where cost is linear.

Parts of one data set teach the same and should help each other. *Alike* is by how many errors, over pairs of tasks, the
mean effect of a source of the same data set is below that of another one; negative is help.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from subprocess import Popen
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
import yaml
from snapshot_tasks import PACKAGED, file_tasks

from analysis.transfer.predicted import transfer_matrix
from ortho_lora.tasks.data import Split, TaskData, hash_fraction
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training.config import load_config

FEWEST = 24
"""Texts of a split."""


class Used(NamedTuple):
    """Of a process."""

    cpu: float
    """Seconds."""
    wall: float
    """Seconds."""
    peak: float
    """MiB."""


def used(*command: str) -> Used:
    """Run a command of the package, whose output is of no interest."""
    begin = perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = Popen([sys.executable, "-m", *command], stdout=nowhere)
        _, status, found = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Used(found.ru_utime + found.ru_stime, perf_counter() - begin, found.ru_maxrss / 1024)


def derived(tasks: list[TaskData], parts: int) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, training and validation texts of every task that is made of these."""
    for task in tasks:
        splits = [_frame(split) for split in (task.train, task.evaluation["validation"])]
        if len(task.classes) > 2:
            for index, name in enumerate(task.classes):
                yield f"{task.name}.{name}", *(split.assign(label=split["label"].eq(index)) for split in splits)
        else:
            for part in range(parts):
                yield f"{task.name}.{part}", *(split[split["part"].mul(parts).astype(int).eq(part)] for split in splits)


def _frame(split: Split) -> pd.DataFrame:
    frame = pd.DataFrame({"text": split.texts, "label": split.labels})
    if split.text_pairs is not None:
        frame["pair"] = split.text_pairs
    return frame.assign(part=[hash_fraction(key, "part") for key in split.keys])


def written(folder: Path, tasks: list[TaskData], count: int) -> list[dict[str, Any]]:
    """As a configuration has them: so many tasks, a file for each."""
    classes = sum(len(task.classes) for task in tasks if len(task.classes) > 2)
    parts = max(-(-(count - classes) // max(sum(len(task.classes) == 2 for task in tasks), 1)), 1)
    enough = (of for of in derived(tasks, parts) if all(min(_counts(split)) * 2 >= FEWEST for split in of[1:]))
    found = []
    for name, *splits in islice(enough, count):
        name = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in name)
        paths = [folder / f"{name}.{of}.jsonl" for of in ("train", "validation")]
        for path, split in zip(paths, splits, strict=True):
            split.assign(label=split["label"].map(str)).drop(columns="part").to_json(path, orient="records", lines=True)
        pair = {"text_pair": "pair"} if "pair" in splits[0] else {}
        files = {"path": str(paths[0]), "validation_path": str(paths[1])}
        found.append({"name": name, **files, "text": "text", "label": "label"} | pair)
    if len(found) < count:
        raise SystemExit(f"of these {len(tasks)} tasks only {len(found)} can be made, and {count} are asked for")
    return found


def _counts(split: pd.DataFrame) -> list[int]:
    return list(split["label"].value_counts().reindex(split["label"].unique())) if split["label"].nunique() > 1 else [0]


def measure(folder: Path, tasks: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """A row."""
    row: dict[str, Any] = {"tasks": len(tasks)}
    for name, snapshots in (("plain", 0), ("run", 1)):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"tasks": tasks, "snapshots": snapshots, **settings}))
        took = used("ortho_lora", "train", "--config", str(path), "--runs-dir", str(folder), "--name", name)
        row |= {"snapshot": took.cpu - row["training"]} if snapshots else {"training": took.cpu}
        row["training MiB"] = took.peak
    run = folder / "run"
    row["record MB"] = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e6
    for what, question in {
        "transfer": ("analysis", "transfer", str(run), "--json"),
        "summary": ("analysis", "summary", str(run), "--json"),
    }.items():
        took = used(*question)
        row |= {what: took.cpu, f"{what} MiB": took.peak}
    return row | {"alike": alike(transfer_matrix(run))}


def alike(matrix: pd.DataFrame) -> float:
    """How far sources of a target's own data set are below others, in standard errors of the difference of means."""
    others = matrix[matrix["source"] != matrix["target"]].dropna(subset=["nats"])
    within = others.assign(nats=others["nats"] - others.groupby("target")["nats"].transform("mean"))
    own = within["source"].str.split(".").str[0] == within["target"].str.split(".").str[0]
    one, other = within.loc[own, "nats"], within.loc[~own, "nats"]
    return float((one.mean() - other.mean()) / np.hypot(one.sem(), other.sem()))


def main(
    folder: Annotated[Path | None, typer.Option(help="Where tasks and runs are kept. Else nowhere.")] = None,
    data: Annotated[Path | None, typer.Option(help="Directory of NAME.train.csv, for more tasks.")] = None,
    counts: Annotated[str, typer.Option(help="Numbers of tasks.")] = "10,50",
    model: Annotated[str, typer.Option(help="Packaged, or a directory.")] = "minilm",
    steps: Annotated[int, typer.Option(min=1, help="Of a training.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of every task in a step.")] = 8,
    batches: Annotated[int, typer.Option(min=8, help="Of every task in the snapshot, and of held-out texts.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what a run of many tasks takes."""
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    named = [*PACKAGED.split(","), *([] if data is None else file_tasks(data))]
    tasks = load_tasks(load_config(overrides={"tasks": named}).tasks, seed=0)
    settings = {
        "method": "joint", "model": model, "steps": steps, "batch_size": batch_size, "eval_every": steps,
        "eval_examples": 64, "snapshot_batches": batches, "learning_rate": 1e-3, "threads": 1,
    }  # fmt: skip
    rows = []
    for count in map(int, counts.split(",")):
        place = folder / f"of-{count}"
        place.mkdir(parents=True)
        rows.append(measure(place, written(place, tasks, count), settings))
        print(f"{count} tasks done", file=sys.stderr, flush=True)
    first, last = rows[0], rows[-1]
    times = ("training", "snapshot", "transfer", "summary")
    each = {name: last[name] / first[name] * first["tasks"] / last["tasks"] for name in times}
    if as_json:
        print(json.dumps({"rows": rows, "each": each}))
    else:
        frame = pd.DataFrame(rows).set_index("tasks").T
        print(frame.assign(each=pd.Series(each)).to_string(float_format=lambda value: f"{value:.2f}", na_rep=""))


if __name__ == "__main__":
    typer.run(main)
