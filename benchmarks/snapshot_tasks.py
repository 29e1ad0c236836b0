"""Which pairs of real tasks are decided: by raw cosines, by corrected ones and by snapshots, and is it so again?

    python benchmarks/snapshot_tasks.py
    python benchmarks/snapshot_tasks.py --data DIRECTORY

The default model is trained jointly. At one step on the way (`--at`) the gradients of n batches of every task are taken
at fixed parameters and kept, half of them of one half of the tasks' texts and half of the other. *Decided* counts pairs
with |z| > 3, the mean over disjoint subsets where fewer than n batches are asked:

- raw: z of the mean over batches of their cosines.
- corrected: what `analysis.statistics.cosines` makes of the same cosines and those of the batches' halves.
- snapshot: `OrthoLoRA.snapshot` of these gradients, z of the product across groups of texts.

Both of the latter have an interval: *narrow* counts pairs whose interval of 95% is narrower than 0.5, *told* those that
the judge calls conflict or aligned. Corrected cosines share their z with raw ones by construction: what the correction
tells is the strength, the sign is that of the same mean.

*Agreement* compares two snapshots of n / 2 batches each, of different halves of the texts, so that what they share is
no noise: of one place, of one step and the last, of trainings from different seeds, with batches of other sizes.

- known: pairs of which both tell the cosine; correlation: of these (Pearson).
- difference: root mean square of their differences, in the errors' units; 1 where both say the same.
- told, in both: pairs that the judge calls conflict or aligned in either, and in both of the snapshots.
- contradict: pairs that one calls a conflict, and the other aligned or no conflict worth the name.
"""

import csv
import itertools
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from analysis.statistics.cosines import of_steps
from analysis.statistics.judge import TOLD, Estimates, judge
from analysis.statistics.series import Floats, means
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.snapshots import METRICS, MetricName, Snapshot
from ortho_lora.surgery.adamw import Metric, Moments
from ortho_lora.surgery.gram import cosines, gram, of_tasks
from ortho_lora.surgery.measure import half_products
from ortho_lora.surgery.snapshot import unchanged
from ortho_lora.tasks.data import TaskData, hash_fraction, take
from ortho_lora.training.batches import Batch
from ortho_lora.training.config import load_config
from ortho_lora.training.model import use_dropout
from ortho_lora.training.session import Training, tasks_of
from ortho_lora.training.snapshots import grouped_batches

PACKAGED = "trec,spam,tweets,movies,news"
CLEAR, NARROW = 3.0, 0.5

warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def file_tasks(directory: Path) -> list[dict[str, Any]]:
    """A task for each NAME.train.csv, with columns `sentence` or two, and `label`; `-` is none."""
    found = []
    for path in sorted(directory.glob("*.train.csv")):
        held_out = path.with_name(path.name.replace(".train.", ".validation."))
        rows = [row for of in (path, held_out) for row in csv.DictReader(of.open(encoding="utf-8", newline=""))]
        texts = [name for name in rows[0] if name != "label"]
        task = {"name": path.name.split(".")[0], "path": path, "validation_path": held_out, "label": "label"}
        task |= dict(zip(("text", "text_pair"), texts, strict=False))
        found.append(task | ({"drop_labels": ["-"]} if any(row["label"] == "-" for row in rows) else {}))
    if not found:
        raise OrthoLoraError(f"--data {directory}: no NAME.train.csv there, expected one of each task.")
    return found


class Course:
    """A joint training, step by step, and what is looked at on its way."""

    def __init__(self, tasks: str | list[dict[str, Any]], steps: int, batch_size: int, seed: int) -> None:
        config = load_config(
            overrides={"tasks": tasks, "steps": steps, "batch_size": batch_size, "seed": seed, "method": "joint"}
        )
        self.training = Training(config, tasks_of(config), lambda status: None, threading.Event())
        self.surgeon = self.training.groups[0].surgeon
        self.parameters = [block.parameter for block in self.surgeon.blocks]
        self.names = [task.name for task in self.training.tasks]
        use_dropout(self.training.model, encoder=False)

    def to(self, steps: Sequence[int]) -> Iterator[int]:
        """Train, and stop at each of these steps."""
        for step in range(max(steps) + 1):
            if step in steps:
                yield step
            if step < max(steps):
                self.training.measure(self.training.sampler.next())
                self.training.optimizer.step()
                self.training.scheduler.step()

    def draws(
        self, half: int, batches: int, batch_size: int
    ) -> tuple[list[TaskData], dict[str, list], dict[str, list]]:
        """The tasks with one half of their texts, and by task batches of them and what group each is of."""
        apart = [_half_of_texts(task, half) for task in self.training.tasks]
        drawn = [grouped_batches(task.train, batches, batch_size, seed=0) for task in apart]
        named = partial(zip, self.names, strict=True)
        return apart, dict(named(of.indices for of in drawn)), dict(named(of.groups for of in drawn))

    def loss(self, task: TaskData, batch: Sequence[int], start: int = 0, end: int | None = None) -> Tensor:
        """What examples `start` to `end` of a batch contribute to its mean loss."""
        config, device = self.training.config, self.training.device
        some = Batch([task], [batch], self.training.tokenizer, config.max_length, device).part(
            0, start, len(batch) if end is None else end
        )
        place = self.names.index(task.name)
        losses = some.losses(
            lambda _, *of: self.training.model.loss(place, *of), self.training.model.pooled(some.tokens())
        )
        return losses[0]

    def snapshot(self, half: int, batches: int, batch_size: int) -> Snapshot:
        """Of one half of the texts."""
        apart, drawn, groups = self.draws(half, batches, batch_size)
        by_name = dict(zip(self.names, apart, strict=True))
        with unchanged(self.training.model):
            torch.manual_seed(half)
            return self.surgeon.snapshot(
                drawn, lambda name, batch: self.loss(by_name[name], batch),
                optimizer=self.training.optimizer, groups=groups,
            )  # fmt: skip

    def gathered(self, batches: int, batch_size: int) -> "Gathered":
        """The gradients of so many batches of every task from each half of the texts."""
        parts, weights, groups = [], [], {name: [] for name in self.names}
        with unchanged(self.training.model), self.surgeon.collector.looking_away():
            torch.manual_seed(0)
            for half in (0, 1):
                apart, drawn, of = self.draws(half, batches, batch_size)
                found = [[self._parts(task, batch) for batch in drawn[task.name]] for task in apart]
                parts.append(torch.stack([torch.stack([part for part, _ in row]) for row in found]))
                weights.append(torch.tensor([[weight for _, weight in row] for row in found], dtype=torch.float64))
                for name in self.names:
                    groups[name] += of[name]
        return Gathered(self, torch.cat(parts, 1), torch.cat(weights, 1), groups)

    def _parts(self, task: TaskData, batch: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The gradients of a batch's two halves, which add up to its own, [2, D], and how many texts each has."""
        cuts = [0, len(batch) // 2, len(batch)]
        rows = []
        for start, end in itertools.pairwise(cuts):
            if start == end:
                rows.append(torch.zeros_like(rows[0]) if rows else torch.zeros(sum(p.numel() for p in self.parameters)))
                continue
            found = torch.autograd.grad(self.loss(task, batch, start, end), self.parameters)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
        return torch.stack(rows), [cuts[1], len(batch) - cuts[1]]


def _half_of_texts(task: TaskData, half: int) -> TaskData:
    of_half = [hash_fraction(origin, "half") < 0.5 for origin in task.train.origins]
    return replace(task, train=take(task.train, [place for place, first in enumerate(of_half) if first == (half == 0)]))


class Gathered(NamedTuple):
    """Gradients of n batches of T tasks at one place, D numbers each."""

    course: Course
    parts: Tensor  # [T, n, 2, D], which add up to the batch's
    weights: Tensor  # [T, n, 2], texts
    groups: dict[str, list[int]]  # by task, of each batch

    def root(self, metric: MetricName) -> Tensor:
        """What coordinates are scaled by, [D]."""
        parameters, whole = self.course.parameters, self.parts.sum(2)
        if metric == "plain":
            return torch.ones(whole.shape[-1])
        known = Metric(parameters, self.course.training.optimizer, [1.0] * len(whole))
        number = torch.full((len(whole), 1), float(whole.shape[1]))
        roots = [
            known.root(index, None, Moments(of.mean(1), of.square().mean(1), number))
            for index, of in enumerate(whole.split([parameter.numel() for parameter in parameters], dim=-1))
        ]
        return torch.cat(roots)

    def raw(self, metric: MetricName, times: float = 1) -> tuple[Floats, Floats]:
        """Of batches this many times as large, 0.5, 1 or 2: cosines of each pair, [pairs, n / times], and agreement of
        the halves of each task's, [T, n / times]; NaN where there is none."""
        tasks, _, _, size = self.parts.shape
        merged = self.parts.view(tasks, -1, max(int(2 * times), 1), size)  # [T, n / times, parts, D]
        weights = self.weights.view(tasks, merged.shape[1], -1)
        if merged.shape[2] == 1:
            merged, weights = torch.nn.functional.pad(merged, (0, 0, 0, 1)), torch.nn.functional.pad(weights, (0, 1))
        middle, root = merged.shape[2] // 2, self.root(metric)
        halves = torch.stack([merged[:, :, :middle].sum(2), merged[:, :, middle:].sum(2)], 2)
        of_halves = torch.stack([weights[..., :middle].sum(-1), weights[..., middle:].sum(-1)], -1)
        matrices = torch.stack([gram((halves[:, k] * root).flatten(0, 1)) for k in range(halves.shape[1])])
        whole, shared = of_tasks(matrices), half_products(matrices, of_halves.transpose(0, 1).flatten(1))
        square = whole.diagonal(dim1=-2, dim2=-1)
        i, j = np.triu_indices(tasks, 1)
        return cosines(whole)[:, i, j].T.numpy(), (shared / (2 * square - shared)).T.numpy()

    def snapshot(self, chosen: slice) -> Snapshot:
        """Of some of the batches: of losses that are linear in the parameters, with these gradients."""
        whole, names = self.parts.sum(2), self.course.names
        return self.course.surgeon.snapshot(
            dict(zip(names, whole[:, chosen], strict=True)),
            lambda _, gradient: torch.nn.utils.parameters_to_vector(self.course.parameters) @ gradient,
            optimizer=self.course.training.optimizer,
            groups={name: of[chosen] for name, of in self.groups.items()},
        )


def estimates(snapshot: Snapshot, metric: MetricName) -> Cosines:
    """Of each pair of different tasks."""
    i, j = np.triu_indices(len(snapshot.tasks), 1)
    found = snapshot.estimates(metric)
    chosen = i * len(snapshot.tasks) + j
    return Cosines(*(getattr(found, name)[chosen] for name in Cosines.__dataclass_fields__))


def corrected(gathered: Gathered, raw: tuple[Floats, Floats], chosen: slice) -> Cosines:
    """Of each pair, from cosines of batches and of their halves."""
    series, halves = (values[:, chosen] for values in raw)
    i, j = np.triu_indices(len(halves), 1)
    sources = [task.twin_of or task.name for task in gathered.course.training.tasks]
    shared = np.array([sources[one] == sources[other] for one, other in zip(i, j, strict=True)])
    return of_steps(series, halves[i], halves[j], shares_texts=shared, independent=True)


def z_of(found: Cosines) -> Floats:
    """Of the cosine being 0."""
    return found.product / np.sqrt(found.product_variance)


def decided(gathered: Gathered) -> list[dict[str, Any]]:
    """A row a metric, way and number of batches: how many pairs are decided, the mean over disjoint subsets."""
    count = gathered.parts.shape[1]
    sizes = [count // parts for parts in (8, 4, 2, 1) if count // parts >= 8]
    subsets = {size: [slice(at, at + size) for at in range(0, count - size + 1, size)] for size in sizes}
    taken = {(size, at.start): gathered.snapshot(at) for size, of in subsets.items() for at in of}
    found = []
    for metric in METRICS:
        raw = gathered.raw(metric)
        ways: dict[str, Callable[[int, slice], list[float]]] = {
            "raw": lambda _, at, raw=raw: [_clear(_raw_z(raw[0][:, at])), np.nan, np.nan],
            "corrected": lambda _, at, raw=raw: _counts(corrected(gathered, raw, at)),
            "snapshot": lambda size, at, metric=metric: _counts(estimates(taken[size, at.start], metric)),
        }
        for way, count_of in ways.items():
            for size in sizes:
                counts = np.mean([count_of(size, at) for at in subsets[size]], axis=0).tolist()
                row = {"metric": metric, "way": way, "batches": size, "subsets": len(subsets[size])}
                found.append(row | dict(zip(("decided", "narrow", "told"), counts, strict=True)))
    return found


def _raw_z(series: Floats) -> Floats:
    found = means(series, independent=True)
    return found.value / found.error


def _clear(z: Floats) -> float:
    return float((np.abs(z) > CLEAR).sum())


def _counts(found: Cosines) -> list[float]:
    """Pairs that are decided, whose interval is narrow, and that the judge tells."""
    low, high = found.interval()
    told = np.isin(judge(Estimates.of(found)).verdict, TOLD)
    return [_clear(z_of(found)), float((high - low < NARROW).sum()), float(told.sum())]


def by_batch_size(gathered: Gathered, snapshots: dict[int, Snapshot]) -> list[dict[str, Any]]:
    """A row a metric and size of batches: raw cosines of all the texts, and a snapshot of half of them."""
    size, found = gathered.course.training.config.batch_size, []
    for metric, (of_size, snapshot) in itertools.product(METRICS, sorted(snapshots.items())):
        series, of = gathered.raw(metric, of_size / size)[0], estimates(snapshot, metric)
        row = {"metric": metric, "batch_size": of_size}
        for way, values, z in (("raw", series.mean(1), _raw_z(series)), ("snapshot", of.value, z_of(of))):
            known = np.abs(values[~np.isnan(values)])
            row |= {f"{way}_decided": _clear(z), f"{way}_mean": float(known.mean()) if len(known) else np.nan}
        found.append(row)
    return found


def pairs_of(gathered: Gathered, snapshot: Snapshot) -> list[dict[str, Any]]:
    """A row a metric and pair."""
    names, found = gathered.course.names, []
    for metric in METRICS:
        raw = gathered.raw(metric)[0]
        of = estimates(snapshot, metric)
        columns = {
            "raw": raw.mean(axis=1), "raw_z": _raw_z(raw), "cosine": of.value, "low": of.interval()[0],
            "high": of.interval()[1], "z": z_of(of), "verdict": judge(Estimates.of(of)).verdict,
        }  # fmt: skip
        for place, (one, other) in enumerate(itertools.combinations(names, 2)):
            values = {name: column[place].item() for name, column in columns.items()}
            found.append({"metric": metric, "task_i": one, "task_j": other, **values})
    return found


def agreement(what: str, one: Snapshot, other: Snapshot) -> list[dict[str, Any]]:
    """A row a metric: what two snapshots have in common."""
    found = []
    for metric in METRICS:
        both = [estimates(of, metric) for of in (one, other)]
        verdicts = [judge(Estimates.of(of)).verdict for of in both]
        known = ~np.isnan(both[0].value) & ~np.isnan(both[1].value)
        values = [of.value[known] for of in both]
        errors = [_error(of)[known] for of in both]
        told = [np.isin(verdict, TOLD) for verdict in verdicts]
        against = [np.isin(verdict, ("aligned", "no conflict worth the name")) for verdict in verdicts]
        conflicts = [verdict == "conflict" for verdict in verdicts]
        contradict = (conflicts[0] & against[1]) | (conflicts[1] & against[0])
        found.append(
            {
                "what": what,
                "metric": metric,
                "decided": _clear(z_of(both[0])),
                "known": int(known.sum()),
                "correlation": float(np.corrcoef(*values)[0, 1]) if known.sum() > 2 else np.nan,
                "difference": float(np.sqrt(np.mean((values[0] - values[1]) ** 2 / (errors[0] ** 2 + errors[1] ** 2))))
                if known.any()
                else np.nan,
                "told": int((told[0] | told[1]).sum()),
                "in_both": int((told[0] & told[1]).sum()),
                "contradict": int(contradict.sum()),
            }
        )
    return found


def _error(found: Cosines) -> Floats:
    """Of the cosine: that of product - cosine scale, over the scale."""
    square = found.product_variance - 2 * found.value * found.covariance + found.value**2 * found.scale_variance
    return np.divide(
        np.sqrt(np.maximum(square, 0)), found.scale, out=np.full(len(square), np.nan), where=found.scale > 0
    )


def main(
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.")] = PACKAGED,
    data: Annotated[Path | None, typer.Option(help="Directory of NAME.train.csv and NAME.validation.csv.")] = None,
    batches: Annotated[int, typer.Option(min=16, help="Of every task, at `--at`; other snapshots take half.")] = 160,
    batch_size: Annotated[int, typer.Option(min=2, help="Texts of each.")] = 16,
    at: Annotated[int, typer.Option(help="Step at which batches are gathered.")] = 80,
    places: Annotated[str, typer.Option(help="Other steps of a snapshot; the last ends the training.")] = "0,20,40,160",
    sizes: Annotated[
        str, typer.Option(help="Other sizes of batches, of as many texts: half of it, twice it.")
    ] = "8,32",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what is decided, which pairs, and how well snapshots agree."""
    began, half = perf_counter(), batches // 2
    stops = sorted({at, *_numbers(places)})
    last, chosen = stops[-1], tasks if data is None else file_tasks(data)
    one, other = {}, {}  # by step, of the first training: snapshots of the two halves of the texts
    tables: dict[str, Any] = {}

    def show(name: str, rows: list[dict[str, Any]]) -> None:
        tables[name] = rows
        if not as_json:
            frame = _wide(pd.DataFrame(rows)) if name == "decided" else pd.DataFrame(rows)
            print(f"{name}\n{frame.to_string(index=False, float_format=lambda value: f'{value:.2f}')}\n", flush=True)

    course = Course(chosen, last, batch_size, seed=0)
    show("tasks", [{"task": task.name, "texts": len(task.train)} for task in course.training.tasks])
    for step in course.to(stops):
        if step != at:
            other[step] = course.snapshot(1, half, batch_size)
            if step == last:
                one[step] = course.snapshot(0, half, batch_size)
            continue
        started = perf_counter()
        gathered = course.gathered(half, batch_size)
        seconds = (perf_counter() - started) / (2 * half * len(course.names))
        show("decided", decided(gathered))
        show("pairs", pairs_of(gathered, gathered.snapshot(slice(None))))
        one[step], other[step] = gathered.snapshot(slice(half)), gathered.snapshot(slice(half, 2 * half))
        of_size = {batch_size: other[step]}
        of_size |= {size: course.snapshot(1, half * batch_size // size, size) for size in _numbers(sizes)}
        show("batch sizes", by_batch_size(gathered, of_size))
        del gathered
    found = agreement(f"step {at}, twice", other[at], one[at])
    for step in stops[:-1]:
        found += agreement(f"step {step} and step {last}", other[step], one[last])
    if last != at:
        found += agreement(f"step {last}, twice", other[last], one[last])
    for size in _numbers(sizes):
        found += agreement(f"step {at}, batches of {size} and {batch_size}", of_size[size], one[at])
    show("agreement", found)
    found = []
    for seed in range(1, seeds):
        course = Course(chosen, last, batch_size, seed)
        for step in course.to(sorted({at, last})):
            found += agreement(f"step {step}, seeds {seed} and 0", course.snapshot(1, half, batch_size), one[step])
    show("agreement of seeds", found)
    show("seconds", [{"a batch of a task": seconds, "in all": perf_counter() - began}])
    if as_json:
        print(json.dumps(tables))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """With a column a number of batches."""
    wide = frame.pivot(index=["metric", "way"], columns="batches", values=["decided", "narrow", "told"])
    wide.columns = [f"{name} {batches}" for name, batches in wide.columns]
    return wide.reset_index()


if __name__ == "__main__":
    typer.run(main)
