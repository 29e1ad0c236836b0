"""What may lie in a runs directory that no program of ours would put there, by name: for tests of what reads it."""

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lora.record.rows import decode
from ortho_lora.record.store import Batch, Store
from ortho_lora.record.tables import SCHEMAS, TABLES

TASKS = ("movies", "tweets", "trec")
STEPS = 24


def write_good(records: ModuleType, path: Path, **fields: Any) -> Path:
    """A finished run as training writes it: several parts of every table, and roll-ups."""
    rng = np.random.default_rng(0)
    tables = records.gradient_tables(rng.standard_normal((STEPS, 2, 2, 2, 3, 2, 8)), TASKS)
    info = records.run_info(path.name, [records.task_info(task) for task in TASKS], **{"config": {"rank": 2}, **fields})
    records.write_run(path, info, records.status(), {})
    for name in SCHEMAS:
        (path / name).mkdir(parents=True)
    pairs, norms = (
        pa.Table.from_pandas(tables[name], preserve_index=False).cast(TABLES[name]) for name in ("pairs", "norms")
    )
    gradients = list(decode(pairs, norms))
    store = Store(path, rows=400)
    for begin in range(0, STEPS, 6):
        store.write(Batch(rows=_rows(range(begin, begin + 6)), gradients=gradients[begin : begin + 6]))
    store.finish()
    return path


def _rows(steps: range) -> dict[str, list[dict[str, Any]]]:
    losses = [(step, task, place) for step in steps for place, task in enumerate(TASKS)]
    step, task, order = (np.array(column) for column in zip(*losses, strict=True))
    last = np.full(3 * 50, steps[-1] + 1)
    of_task, example = np.repeat(TASKS, 50), np.tile(np.arange(50), 3)
    validation = {"step": last, "split": np.full(150, "validation"), "task": of_task, "example": example}
    found = {
        "steps": [{"step": step, "task": task, "loss": 1.0 / (1 + step), "learning_rate": np.full(len(step), 1e-3),
                   "seconds": np.full(len(step), 0.1), "order": order}],
        "metrics": [{"step": last[:3], "split": np.full(3, "validation"), "task": np.array(TASKS),
                     "metric": np.full(3, "accuracy"), "value": np.full(3, 0.5), "examples": np.full(3, 50)}],
    }  # fmt: skip
    if steps[-1] + 1 == STEPS:
        predictions = {"target": np.tile([0.0, 1.0], 75), "prediction": np.tile([0.0, 1.0], 75)}
        found["predictions"] = [validation | predictions]
    return found


def _instead(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        write(path)

    return act


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES: dict[str, Callable[[Path], object]] = {
    "empty": _instead(lambda path: path.write_bytes(b"")),
    "torn": _torn,
    "no text": _instead(lambda path: path.write_bytes(b"\xff\xfe{\x00")),
    "a directory": _instead(lambda path: path.mkdir()),
    "a pipe": _instead(lambda path: os.mkfifo(path)),
    "a link to itself": _instead(lambda path: path.symlink_to(path)),
    "a list": _instead(lambda path: path.write_text("[]")),
    "other types": _instead(
        lambda path: path.write_text('{"state": 1, "run_id": [], "parts": 3, "title": {}, "pid": ""}')
    ),
    "without permission": lambda path: path.chmod(0),
}  # fmt: skip
"""What may become of a file of text."""


def _parts(run: Path, table: str) -> list[Path]:
    return sorted((run / table).glob("part-*.parquet"))


def _rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def _flipped(path: Path) -> None:
    """Pages that do not unpack, under a footer that is whole."""
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 3] = bytes(255 - byte for byte in content[8 : len(content) // 3])
    path.write_bytes(content)


def _other_types(table: pa.Table) -> pa.Table:
    columns = [
        pa.array([f"x{place}" for place in range(len(column))]) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    return pa.table(dict(zip(table.column_names, columns, strict=True)))


PARTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "torn": _torn,
    "empty": FILES["empty"],
    "flipped": _flipped,
    "a directory": FILES["a directory"],
    "a pipe": FILES["a pipe"],
    "a link to itself": FILES["a link to itself"],
    "other columns": _rewritten(lambda table: table.rename_columns([f"x{name}" for name in table.column_names])),
    "other types": _rewritten(_other_types),
    "no rows": _rewritten(lambda table: table.slice(0, 0)),
    "without permission": FILES["without permission"],
}
"""What may become of a part."""


def _escaping(path: Path) -> None:
    document = json.loads(path.read_text())
    document["parts"]["pairs"][0]["name"] = "../../other/pairs/part-000000.parquet"
    path.write_text(json.dumps(document))


def spoilt() -> dict[str, Callable[[Path], object]]:
    """What may become of a run, by what it is called; each takes the run's directory."""
    found: dict[str, Callable[[Path], object]] = {}
    for file in ("run.json", "status.json", "notes.json", "manifest.json"):
        for name, act in FILES.items():
            if file != "notes.json" or name != "torn":
                found[f"{file} {name}"] = _on(file, act)
        found[f"{file} missing"] = lambda run, file=file: (run / file).unlink(missing_ok=True)
    found["run.json of another age"] = lambda run: _edited(run / "run.json", created=1e300, seed=10**30)
    found["run.json torn at its end"] = lambda run: os.truncate(
        run / "run.json", (run / "run.json").stat().st_size - 20
    )
    found["status.json of another age"] = lambda run: _edited(run / "status.json", step=10**30, heartbeat=-1e300)
    found["manifest.json escaping"] = lambda run: _escaping(run / "manifest.json")
    for table in ("pairs", "norms", "steps", "metrics", "rollup/pairs_by_block", "rollup/norms_by_step"):
        for name, act in PARTS.items():
            if table != "pairs" and name not in ("missing", "torn", "flipped", "other types"):
                continue
            found[f"{table} {name}"] = lambda run, table=table, act=act: act(_parts(run, table)[0])
    for table in ("pairs", "rollup"):
        found[f"folder {table} gone"] = lambda run, table=table: shutil.rmtree(run / table)
        found[f"folder {table} a file"] = lambda run, table=table: FILES["empty"](run / table)
        found[f"folder {table} without permission"] = lambda run, table=table: (run / table).chmod(0)
    return found


def _on(file: str, act: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        if file == "notes.json":
            (run / file).write_text('{"title": "said"}')
        act(run / file)

    return spoil


def _edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


NAMES = ("r (copy)", "with space", "-dash", "ünï 任务", "new\nline", "[x](y) $a$", "%41", "a'b\"c")
"""Names that people and their file managers give to directories."""


def litter(runs_dir: Path, run: Path) -> None:
    """Lay among the runs whatever may lie there; `run` is one of them, copied under `NAMES`."""
    for name in NAMES:
        shutil.copytree(run, runs_dir / name)
    (runs_dir / "a file.txt").write_text("foreign")
    (runs_dir / "foreign" / "deep").mkdir(parents=True)
    (runs_dir / "loop").symlink_to("loop")
    (runs_dir / "nowhere").symlink_to("absent")
    (runs_dir / "inside").symlink_to(runs_dir)
    (runs_dir / "linked").symlink_to(run)
    os.mkfifo(runs_dir / "pipe")
    os.mkdir(os.fsencode(runs_dir) + b"/bytes\xff")
    shutil.copytree(run, runs_dir / "closed")
    (runs_dir / "closed").chmod(0)
    shutil.copytree(run, runs_dir / "listed only")
    (runs_dir / "listed only").chmod(0o444)


def litter_queue(runs_dir: Path) -> None:
    """Lay whatever may lie there among the tickets."""
    where = runs_dir / ".launch"
    where.mkdir(exist_ok=True)
    for number, (name, act) in enumerate(FILES.items()):
        path = where / f"{name} {number}.json"
        path.write_text('{"pid": 4194303, "process_start_time": 1.0}')
        act(path)
    (where / ".hidden.json").write_text("{}")
    (where / "r (copy).json").write_text('{"pid": 4194303, "process_start_time": 1.0}')
    (where / "r (copy).log").mkdir()
    (where / "huge.json").write_text('{"pid": 1e300, "process_start_time": 1e999}')
    (where / "negative.json").write_text('{"pid": -4, "process_start_time": 1.0}')
    (where / os.fsdecode(b"bytes\xff.json")).write_text('{"pid": 4194303, "process_start_time": 1.0}')
    os.mkfifo(where / "limit")


def open_to_all(directory: Path) -> None:
    """Give back the permissions that were taken, so that the directory can be removed."""
    for path, *_ in os.walk(directory):
        for name in os.listdir(path):
            if not os.path.islink(inner := os.path.join(path, name)):
                os.chmod(inner, 0o700)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextmanager
def permissions_hold() -> Iterator[None]:
    """As root, do without the right to pass over the permissions of files, in this thread and those it starts."""
    if os.geteuid() != 0:
        yield
        return
    system, header, sets = ctypes.CDLL(None, use_errno=True), _Header(0x20080522, 0), (_Sets * 2)()
    assert system.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert system.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert system.capset(ctypes.byref(header), sets) == 0
