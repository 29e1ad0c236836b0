"""Runs of the packaged model on packaged tasks that take a second, and their tables."""

import pyarrow.dataset as ds

from ortho_lora.record.manifest import part_files
from ortho_lora.record.tables import TABLES
from ortho_lora.training.config import load_config

SMALL = {
    "tasks": ["trec", "movies", "movies@1"],
    "batch_size": 4,
    "steps": 5,
    "eval_every": 2,
    "eval_examples": 24,
    "max_length": 24,
    "dropout": 0.0,
    "rank": 2,
}


def config(**changes):
    return load_config(overrides=SMALL | changes)


def table(run_dir, name):
    files = part_files(run_dir, name)
    return ds.dataset(files, schema=TABLES[name]).to_table().to_pandas()


def content(run_dir):
    """All files of a run, with when they were written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run_dir.rglob("*") if path.is_file()}
