"""Which pairs of real tasks are decided: by raw cosines, by corrected ones and by snapshots, and is it so again?

    python benchmarks/snapshot_tasks.py
    python benchmarks/snapshot_tasks.py --data DIRECTORY

The default model is trained jointly. At one step on the way (`--at`) the gradients of n batches of every task are taken
at fixed parameters and kept, half of them of one half of the tasks' texts and half of the other. *Decided* counts pairs
with |z| > 3, the mean over disjoint subsets where fewer than n batches are asked:

- raw: mean over batches of their cosines, over its standard error.
- corrected: what `analysis.statistics.cosines` makes of the same cosines and those of the batches' halves: the sign is
  that of the same mean, with an error that would do for steps; what the halves tell is the strength.
- snapshot: `OrthoLoRA.snapshot` of these gradients, z of the product across groups of texts.

Both of the latter have an interval: *narrow* counts pairs whose interval of 95% is narrower than 0.5, *told* those that
the judge calls conflict or aligned.

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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
from scipy import stats
from torch import Tensor

from analysis.statistics.cosines import of_steps
from analysis.statistics.series import FEWEST_STEPS, Floats
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.judge import TOLD, Estimates, judge
from ortho_lora.record.snapshots import METRICS, MetricName, Snapshot
from ortho_lora.surgery.adamw import Metric, Moments
from ortho_lora.surgery.gram import cosines, gram, of_tasks
from ortho_lora.surgery.groups import GroupedBatches
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

    def __init__(self, *, seed: int, **settings: Any) -> None:
        config = load_config(overrides={"method": "joint", "seed": seed} | settings)
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

    def draws(self, half: int | None, batches: int, batch_size: int) -> dict[str, tuple[TaskData, GroupedBatches]]:
        """By task: the task with one half of its texts, or all, and batches of these."""
        apart = [_half_of_texts(task, half) for task in self.training.tasks]
        return {task.name: (task, grouped_batches(task.train, batches, batch_size, seed=0, step=0)) for task in apart}

    def loss(self, task: TaskData, batch: Sequence[int], start: int, end: int) -> Tensor:
        """What examples `start` to `end` of a batch contribute to its mean loss."""
        model, place = self.training.model, self.names.index(task.name)
        whole = Batch([task], [batch], self.training.tokenizer, self.training.config.max_length, self.training.device)
        some = whole.part(0, start, end)
        return some.losses(lambda _, *of: model.loss(place, *of), model.pooled(some.tokens()))[0]

    def snapshot(self, half: int, batches: int, batch_size: int) -> Snapshot:
        """Of one half of the texts."""
        draws = self.draws(half, batches, batch_size)
        with unchanged(self.training.model):
            torch.manual_seed(half)
            return self.surgeon.snapshot(
                {name: drawn.indices for name, (_, drawn) in draws.items()},
                lambda name, batch: self.loss(draws[name][0], batch, 0, len(batch)),
                optimizer=self.training.optimizer,
                groups={name: drawn.groups for name, (_, drawn) in draws.items()},
            )

    def gathered(self, batches: int, batch_size: int) -> "Gathered":
        """The gradients of so many batches of every task from each half of the texts."""
        found: list[tuple[Tensor, Tensor]] = []
        groups: dict[str, list[int]] = {name: [] for name in self.names}
        with unchanged(self.training.model), self.surgeon.collector.looking_away():
            torch.manual_seed(0)
            for half in (0, 1):
                for name, (task, drawn) in self.draws(half, batches, batch_size).items():
                    found += [self._parts(task, batch) for batch in drawn.indices]
                    groups[name] += drawn.groups
        # halves of the texts, tasks, batches -> tasks, batches of both
        parts, texts = (
            torch.stack(of).unflatten(0, (2, len(self.names), batches)).transpose(0, 1).flatten(1, 2)
            for of in zip(*found, strict=True)
        )
        return Gathered(self, parts, texts, groups)

    def _parts(self, task: TaskData, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The gradients of a batch's two halves, which add up to its own, [2, D], and how many texts each has, [2]."""
        middle, rows = len(batch) // 2, []
        for start, end in ((0, middle), (middle, len(batch))):
            of_none = [torch.zeros_like(parameter) for parameter in self.parameters]
            found = torch.autograd.grad(self.loss(task, batch, start, end), self.parameters) if end > start else of_none
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
        return torch.stack(rows), torch.tensor([middle, len(batch) - middle], dtype=torch.float64)


def _half_of_texts(task: TaskData, half: int | None) -> TaskData:
    if half is None:
        return task
    of_half = [hash_fraction(origin, "half") < 0.5 for origin in task.train.origins]
    return replace(task, train=take(task.train, [place for place, first in enumerate(of_half) if first == (half == 0)]))


class Gathered(NamedTuple):
    """Gradients of n batches of T tasks at one place, D numbers each."""

    course: Course
    parts: Tensor  # [T, n, 2, D], of the halves of batches, which add up to the batch's
    texts: Tensor  # [T, n, 2]
    groups: dict[str, list[int]]  # by task, of each batch

    def root(self, metric: MetricName) -> Tensor:
        """What coordinates are scaled by, [D]."""
        parameters, whole = self.course.parameters, self.parts.sum(2)
        if metric == "plain":
            return torch.ones(whole.shape[-1])
        known = Metric(parameters, self.course.training.optimizer, [1.0] * len(whole))
        number = torch.full((len(whole), 1), float(whole.shape[1]))
        of_blocks = whole.split([parameter.numel() for parameter in parameters], dim=-1)
        moments = [Moments(of.mean(1), of.square().mean(1), number) for of in of_blocks]
        return torch.cat([known.root(index, None, of) for index, of in enumerate(moments)])

    def raw(self, metric: MetricName, times: float = 1) -> Floats:
        """Cosines of batches this many times as large, 0.5, 1 or 2, [pairs, n / times]."""
        tasks, size = len(self.parts), self.parts.shape[-1]
        of_batches = self.parts.reshape(tasks, -1, round(2 * times), size).sum(2) * self.root(metric)
        i, j = np.triu_indices(tasks, 1)
        return cosines(gram(of_batches.transpose(0, 1)))[:, i, j].T.numpy()

    def halves(self, metric: MetricName) -> Floats:
        """How the halves of batches agree, as `of_steps` has it, [T, n]; NaN where a batch has no two."""
        root = self.root(metric)
        matrices = torch.stack([gram((batch * root).flatten(0, 1)) for batch in self.parts.unbind(1)])  # [n, 2T, 2T]
        shared = half_products(matrices, self.texts.transpose(0, 1).flatten(1))
        square = of_tasks(matrices).diagonal(dim1=-2, dim2=-1)
        return (shared / (2 * square - shared)).T.numpy()

    def snapshot(self, chosen: slice) -> Snapshot:
        """Of some of the batches: of losses that are linear in the parameters, with these gradients."""
        names, parameters = self.course.names, self.course.parameters
        return self.course.surgeon.snapshot(
            dict(zip(names, self.parts[:, chosen].sum(2), strict=True)),
            lambda _, gradient: torch.nn.utils.parameters_to_vector(parameters) @ gradient,
            optimizer=self.course.training.optimizer,
            groups={name: of[chosen] for name, of in self.groups.items()},
        )


def estimates(snapshot: Snapshot, metric: MetricName) -> Cosines:
    """Of each pair of different tasks."""
    i, j = np.triu_indices(len(snapshot.tasks), 1)
    found = snapshot.estimates(metric)
    chosen = i * len(snapshot.tasks) + j
    return Cosines(*(getattr(found, name)[chosen] for name in Cosines.__dataclass_fields__))


def corrected(tasks: Sequence[TaskData], raw: Floats, halves: Floats) -> Cosines:
    """Of each pair, from cosines of batches and of their halves."""
    i, j = np.triu_indices(len(halves), 1)
    sources = [task.twin_of or task.name for task in tasks]
    shared = np.array([sources[one] == sources[other] for one, other in zip(i, j, strict=True)])
    return of_steps(raw, halves[i], halves[j], shares_texts=shared)


def decided(gathered: Gathered) -> list[dict[str, Any]]:
    """A row a metric, way and number of batches: how many pairs are decided, the mean over disjoint subsets."""
    count, tasks, found = gathered.parts.shape[1], gathered.course.training.tasks, []
    series = {metric: (gathered.raw(metric), gathered.halves(metric)) for metric in METRICS}
    for size in (count // parts for parts in (8, 4, 2, 1) if count // parts >= FEWEST_STEPS):
        for start in range(0, count - size + 1, size):
            chosen = slice(start, start + size)
            snapshot = gathered.snapshot(chosen)
            for metric in METRICS:
                raw, halves = (values[:, chosen] for values in series[metric])
                ways = {"corrected": corrected(tasks, raw, halves), "snapshot": estimates(snapshot, metric)}
                of_ways = {"raw": {"decided": _clear(_mean(raw)[1])}} | {way: _counts(of) for way, of in ways.items()}
                found += [{"metric": metric, "way": way, "batches": size, **of} for way, of in of_ways.items()]
    means = pd.DataFrame(found).groupby(["metric", "way", "batches"], sort=False).mean()
    return means.reset_index().to_dict("records")


def _mean(series: Floats) -> tuple[Floats, Floats]:
    """Of raw cosines, and its z."""
    mean = np.nanmean(series, axis=1)
    return mean, mean / stats.sem(series, axis=1, nan_policy="omit")


def _z(found: Cosines) -> Floats:
    """Of the cosine being 0."""
    return found.product / np.sqrt(found.product_variance)


def _clear(z: Floats) -> int:
    return int((np.abs(z) > CLEAR).sum())


def _counts(found: Cosines) -> dict[str, int]:
    low, high = found.interval()
    told = np.isin(judge(Estimates.of(found)).verdict, TOLD)
    return {"decided": _clear(_z(found)), "narrow": int((high - low < NARROW).sum()), "told": int(told.sum())}


def by_batch_size(gathered: Gathered, snapshots: dict[int, Snapshot]) -> list[dict[str, Any]]:
    """A row a metric and size of batches: raw cosines of all the texts, and a snapshot of half of them."""
    size, found = gathered.course.training.config.batch_size, []
    for metric, (of_size, snapshot) in itertools.product(METRICS, sorted(snapshots.items())):
        row: dict[str, Any] = {"metric": metric, "batch_size": of_size}
        of = estimates(snapshot, metric)
        for way, (values, z) in {
            "raw": _mean(gathered.raw(metric, of_size / size)),
            "snapshot": (of.value, _z(of)),
        }.items():
            known = np.abs(values[~np.isnan(values)])
            row |= {f"{way}_decided": _clear(z), f"{way}_mean": float(known.mean()) if len(known) else np.nan}
        found.append(row)
    return found


def pairs_of(gathered: Gathered, snapshot: Snapshot) -> list[dict[str, Any]]:
    """A row a metric and pair."""
    found = []
    for metric in METRICS:
        (raw, raw_z), of = _mean(gathered.raw(metric)), estimates(snapshot, metric)
        low, high = of.interval()
        numbers = {"raw": raw, "raw_z": raw_z, "cosine": of.value, "low": low, "high": high, "z": _z(of)}
        columns = {**numbers, "verdict": judge(Estimates.of(of)).verdict}
        for place, (one, other) in enumerate(itertools.combinations(gathered.course.names, 2)):
            values = {name: column[place].item() for name, column in columns.items()}
            found.append({"metric": metric, "task_i": one, "task_j": other, **values})
    return found


def agreement(what: str, one: Snapshot, other: Snapshot) -> list[dict[str, Any]]:
    """A row a metric: what two snapshots have in common."""
    found = []
    for metric in METRICS:
        both = [estimates(of, metric) for of in (one, other)]
        known = ~np.isnan(both[0].value) & ~np.isnan(both[1].value)
        first, second = (of.value[known] for of in both)
        error = np.hypot(*(_error(of)[known] for of in both))
        verdicts = [judge(Estimates.of(of)).verdict for of in both]
        told = [np.isin(verdict, TOLD) for verdict in verdicts]
        conflict = [verdict == "conflict" for verdict in verdicts]
        denied = [np.isin(verdict, ("aligned", "no conflict worth the name")) for verdict in verdicts]
        row = {"what": what, "metric": metric, "decided": _clear(_z(both[0])), "known": int(known.sum())}
        row["correlation"] = float(np.corrcoef(first, second)[0, 1]) if known.sum() > 2 else np.nan
        row["difference"] = float(np.sqrt((((first - second) / error) ** 2).mean())) if known.any() else np.nan
        row |= {"told": int((told[0] | told[1]).sum()), "in_both": int((told[0] & told[1]).sum())}
        row["contradict"] = int(((conflict[0] & denied[1]) | (conflict[1] & denied[0])).sum())
        found.append(row)
    return found


def _error(found: Cosines) -> Floats:
    """Of the cosine, where it is known: that of product - cosine scale, over the scale."""
    square = found.product_variance - 2 * found.value * found.covariance + found.value**2 * found.scale_variance
    return np.sqrt(square) / found.scale


def main(
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.")] = PACKAGED,
    data: Annotated[Path | None, typer.Option(help="Directory of NAME.train.csv and NAME.validation.csv.")] = None,
    model: Annotated[str, typer.Option(help="Packaged, or a directory.")] = "minilm",
    batches: Annotated[int, typer.Option(min=16, help="Of every task, at `--at`; other snapshots take half.")] = 160,
    batch_size: Annotated[int, typer.Option(min=2, help="Texts of each.")] = 16,
    at: Annotated[int, typer.Option(help="Step at which batches are gathered.")] = 80,
    places: Annotated[str, typer.Option(help="Other steps of a snapshot; the last ends the training.")] = "0,20,40,160",
    sizes: Annotated[
        str, typer.Option(help="Other sizes of batches, of as many texts: half of it, twice it.")
    ] = "8,32",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings.")] = 2,
    schedule: Annotated[str, typer.Option(help="How the learning rate goes: linear, cosine or constant.")] = "linear",
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

    settings = {"model": model, "tasks": chosen, "steps": last, "batch_size": batch_size, "schedule": schedule}
    course = Course(seed=0, **settings)
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
        course = Course(seed=seed, **settings)
        for step in course.to(sorted({at, last})):
            found += agreement(f"step {step}, seeds {seed} and 0", course.snapshot(1, half, batch_size), one[step])
    if found:
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
