"""Runs that are cut off in the middle, and what a run leaves."""

import json

import pyarrow.dataset as ds
from safetensors.torch import load_file

from ortho_lora.record.manifest import part_files
from ortho_lora.record.tables import TABLES
from ortho_lora.training.session import Training


class PowerCutError(BaseException):
    """Ends training at once, as nothing that it expects."""


def interrupt(monkeypatch, method, at):
    """Let a method of Training fail, half done, where its step is `at`."""
    plain = getattr(Training, method)

    def fail(self, *args):
        if self.place.step == at:
            raise PowerCutError
        return plain(self, *args)

    monkeypatch.setattr(Training, method, fail)


def content(run_dir):
    """All that a run leaves but its times and the cuts between its parts."""
    tables = {}
    for name, schema in TABLES.items():
        rows = ds.dataset(part_files(run_dir, name), schema=schema).to_table()
        tables[name] = rows.drop_columns("seconds").to_pylist() if name == "steps" else rows.to_pylist()
    tensors = {
        str(path.relative_to(run_dir)): {name: value.tolist() for name, value in load_file(path).items()}
        for path in sorted((run_dir / "adapter").rglob("*.safetensors"))
    }
    return json.dumps([tables, tensors]), tables, tensors
