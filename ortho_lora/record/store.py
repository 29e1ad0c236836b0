"""The tables of one run on disk: takes rows, writes them as parts with their roll-ups, and keeps the parts few.

Importable without torch. Only one process writes a run (`record.lock_run`), and in it one thread.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from ortho_lora.record.manifest import Manifest, Part, read_manifest
from ortho_lora.record.parts import FEWEST_TOGETHER, cut, next_number, part_name, publish, together, write_part
from ortho_lora.record.rollup import RollUp, widened
from ortho_lora.record.rows import Gradients, decode, encode, encoded
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.record.tables import BINS_TOGETHER, ROLLUPS, SCHEMAS, SNAPSHOTS_BY_LAYER, TABLES

ROWS = 1_000_000
"""Rows of a part that is large enough to be left as it is."""
GRACE = 10.0
"""Seconds for which a part that counts no more is left to whoever reads it."""

_BINNED = {f"rollup/{table}_{level}": bins for level, bins in BINS_TOGETHER.items() for table in ("pairs", "norms")}

Chunk = Mapping[str, NDArray[Any]]


@dataclass
class Batch:
    """Rows that are written together."""

    rows: dict[str, list[Chunk]] = field(default_factory=dict)  # by table; a chunk has arrays of one length
    gradients: list[Gradients] = field(default_factory=list)  # of `pairs` and `norms`, in step order
    snapshots: list[tuple[int, Snapshot]] = field(default_factory=list)  # with their steps, in order


class Store:
    """The parts of a run, and the manifest that says which count."""

    def __init__(self, run_dir: Path, rows: int = ROWS, before: Mapping[str, int] | None = None) -> None:
        """Begin a record in `run_dir`, or go on with the one that is there.

        Args:
            run_dir: with a directory for each of the tables and roll-ups.
            rows: of a part that is large enough to be left as it is.
            before: by table, the step before which the rows that are there stay; later ones are dropped.

        Raises:
            OrthoLoraError: a part cannot be read, or the directory cannot be written.
        """
        self.run_dir, self.rows = run_dir, rows
        covered = -1 if before is None else self._cut(before)
        self.manifest = read_manifest(run_dir)
        self._numbers = {name: next_number(run_dir / name) for name in SCHEMAS}
        self._rollup = RollUp(self.manifest.bins, covered)
        self._retired: list[tuple[float, Path]] = []
        self._catch_up(covered)

    def write(self, batch: Batch) -> None:
        """Write the rows of each table as one part, and what is full of the roll-ups; then publish them.

        Raises:
            OSError: the disk refuses; what was published stays.
        """
        tables = {table: _encoded(table, chunks) for table, chunks in batch.rows.items()}
        if batch.gradients:
            tables |= {name: rows for name in ("pairs", "norms") if len(rows := encode(name, batch.gradients))}
        of_snapshots = [snapshot.tables(step) for step, snapshot in batch.snapshots]
        for name in dict.fromkeys(name for of in of_snapshots for name in of):
            found = [of[name] for of in of_snapshots if name in of]
            tables[name] = pa.concat_tables(found).unify_dictionaries()
        with ThreadPoolExecutor(1) as pool:  # compresses while sums are formed
            parts = {name: _begun(pool, partial(self._write, name, table)) for name, table in tables.items()}
            for gradients in batch.gradients:
                self._rollup.add(gradients)
        self._publish({name: part.result() for name, part in parts.items()})
        self._tidy(FEWEST_TOGETHER)

    def finish(self) -> None:
        """End the bins that are not full, and put small parts together: nothing will follow."""
        self._rollup.finish()
        self._publish({})
        self._tidy(2)
        self._remove(0.0)

    def _cut(self, before: Mapping[str, int]) -> int:
        """Drop rows; return the step up to which the roll-ups tell of all that stay, the end of a bin at all levels."""
        try:
            widest = "rollup/norms_by_block"
            ends = self._read(widest, read_manifest(self.run_dir).of(widest))["step_end"].to_numpy()
            covered = int(max(ends[ends < before["norms"]], default=-1))
        except (OSError, pa.ArrowInvalid):  # all of it can be had from the rows
            covered = -1
        ends = dict.fromkeys(ROLLUPS, covered + 1) | {SNAPSHOTS_BY_LAYER: before["snapshots"]}
        cut(self.run_dir, {**before, **ends})
        return covered

    def _catch_up(self, covered: int) -> None:
        """Roll up the rows after step `covered`, window by window."""
        last = max((part.last for part in self.manifest.of("norms")), default=-1)
        width = self.manifest.bins.width if self.manifest.bins else 1
        for begin in range(covered + 1, last + 1, width):
            rows = {
                name: self._read(
                    name,
                    [part for part in self.manifest.of(name) if part.first < begin + width and part.last >= begin],
                    range(begin, begin + width),
                )
                for name in ("pairs", "norms")
            }
            for gradients in decode(rows["pairs"], rows["norms"]):
                self._rollup.add(gradients)

    def _publish(self, parts: Mapping[str, Part]) -> None:
        """Let new parts count, with the rows that the roll-ups have by now."""
        manifest, bins = self.manifest, self._rollup.bins
        rolled = {name: self._write(name, table) for name, table in self._rollup.take().items()}
        for name, part in {**parts, **rolled}.items():
            manifest = manifest.replaced(name, [*manifest.of(name), part])
        if bins is not None and bins != manifest.bins:  # wider than those that some rows were put in
            for name, count in _BINNED.items():
                if narrow := manifest.of(name):
                    table = widened(self._read(name, narrow), bins, count)
                    manifest = manifest.replaced(name, [self._write(name, table)])
        self._replace(manifest.model_copy(update={"bins": bins}))

    def _tidy(self, fewest: int) -> None:
        """Put small neighbouring parts together."""
        manifest = self.manifest
        for name in SCHEMAS:
            parts = manifest.of(name)
            kept, done = [], 0
            for begin, end in together(parts, self.rows, fewest):
                joined = self._write(name, self._read(name, parts[begin:end]))
                kept += [*parts[done:begin], joined]
                done = end
            if done:
                manifest = manifest.replaced(name, [*kept, *parts[done:]])
        if manifest is not self.manifest:
            self._replace(manifest)
        self._remove(GRACE)

    def _replace(self, manifest: Manifest) -> None:
        """Publish, and remember which files count no more."""
        if manifest == self.manifest:
            return
        publish(self.run_dir, manifest)
        now = time.monotonic()
        for name in SCHEMAS:
            gone = set(self.manifest.of(name)) - set(manifest.of(name))
            self._retired += [(now, self.run_dir / name / part.name) for part in gone]
        self.manifest = manifest

    def _remove(self, seconds: float) -> None:
        """Delete what has not counted for so long; a reader that still needs it looks up what counts now."""
        now = time.monotonic()
        for since, path in self._retired:
            if now - since >= seconds:
                with suppress(FileNotFoundError):
                    path.unlink()
        self._retired = [(since, path) for since, path in self._retired if now - since < seconds]

    def _write(self, name: str, table: pa.Table) -> Part:
        number = self._numbers[name]
        self._numbers[name] += 1
        return write_part(self.run_dir / name / part_name(number), table)

    def _read(self, name: str, parts: Sequence[Part], steps: range | None = None) -> pa.Table:
        """The rows of parts, or of them those of some steps."""
        schema = SCHEMAS[name]
        files = [str(self.run_dir / name / part.name) for part in parts]
        chosen = None if steps is None else (pc.field("step") >= steps.start) & (pc.field("step") < steps.stop)
        rows = ds.dataset(files, schema=schema).to_table(filter=chosen) if files else schema.empty_table()
        return rows.unify_dictionaries()


def _begun(pool: Executor, call: Callable[[], Part]) -> Future[Part]:
    try:
        return pool.submit(call)
    except RuntimeError:  # the interpreter ends, and lets nobody start a thread
        done: Future[Part] = Future()
        done.set_result(call())
        return done


def _encoded(table: str, chunks: Sequence[Chunk]) -> pa.Table:
    columns = [encoded(np.concatenate([chunk[kind.name] for chunk in chunks]), kind.type) for kind in TABLES[table]]
    return pa.Table.from_arrays(columns, schema=TABLES[table])
