"""Every benchmark runs, on sizes too small to say anything; what they measure is no test's business."""

import json
import os
from pathlib import Path

import pytest
from forks import TRAINING, forks

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = {
    "projection": ["--blocks", "8"],
    "steps": ["--tasks", "2", "--batch-size", "2", "--rounds", "1"],
    "memory": ["--tasks", "2", "--batch-size", "2"],
    "scaling": ["--tasks", "2", "3", "--ranks", "2", "--batch-size", "2"],
    "passes": ["--tasks", "2", "--batch-size", "2", "--rounds", "1", "--repeats", "1"],
    "kills": ["--kills", "2"],
    "telemetry": ["--steps", "12", "--layers", "1", "--runs", "3"],
    "judge": ["--quick"],
    "snapshot_coverage": ["--snapshots", "1"],
    "snapshot_cost": ["--tasks", "2", "--batches", "2", "--batch-size", "2", "--rounds", "1"],
    "on_gpu": ["--device", "cpu", "--tiny", "--batches", "8", "--rounds", "1"],
    "snapshot_memory": [
        "--layers", "1", "--rank", "4", "--tasks", "2", "--steps", "1", "--batches", "2", "--ranks", "8",
        "--seeds", "1",
    ],
    "questions": ["--snapshots", "1", "--layers", "1", "--repeats", "1"],
    "snapshot_tasks": [
        "--tasks",
        "movies,movies@1",
        "--batches",
        "16",
        "--batch-size",
        "2",
        "--at",
        "1",
        "--places",
        "2",
        "--sizes",
        "4",
    ],
    "transfer_steps": [
        "--tasks", "trec,spam,movies", "--places", "1", "--batches", "16", "--batch-size", "2", "--texts", "16",
    ],
    "transfer_trainings": [
        "--tasks", "trec,spam", "--steps", "4", "--batch-size", "2", "--places", "1,2,3", "--batches", "16",
        "--examples", "16", "--texts", "16", "--seeds", "1",
    ],
    "many_tasks": ["--counts", "3", "--steps", "1", "--batch-size", "2", "--batches", "8"],
    "watched": ["--model", "tiny", "--steps", "3", "--length", "16"],
    "pages": [
        "--steps",
        "12",
        "--small",
        "9",
        "--layers",
        "1",
        "--repeats",
        "1",
        "--seconds",
        "1",
        "--pages",
        "Layers",
    ],
}  # fmt: skip
OF_A_MODEL = {
    "steps", "memory", "scaling", "passes", "snapshot_cost", "snapshot_tasks", "transfer_steps", "transfer_trainings",
    "many_tasks",
}  # fmt: skip


def test_all_are_listed():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"workload", "simulated"}
    assert scripts == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_runs(name, tiny):
    model = ["--model", tiny] if name in OF_A_MODEL else []
    done = forks(*TRAINING).run([str(BENCHMARKS / f"{name}.py"), *model, *SMALL[name], "--json"])
    if done.stderr.startswith("no browser") and not os.environ.get("CI"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
