"""Is predicted transfer what a step does? Against steps along the tasks' mean gradients.

    python benchmarks/transfer_steps.py
    python benchmarks/transfer_steps.py --data DIRECTORY --places 60

The default model is trained jointly. At each place texts are parted: one half of the training texts predicts, with one
half of the validation texts; the other half makes the step, of AdamW with the second moments of its own mixture; the
rest of the validation texts judges it. Asked is of every ordered pair of a target and another task

- source: what the source's own part of the step does, loss after it less before; predicted is the pull.
- with and without: loss after the whole step less that after the step without the source; predicted is the effect.

Two rows a place, and with `own` what holds of each task on itself:

- pearson, spearman, slope: of predicted and realized; with intervals of 95% from leaving out tasks (jackknife), as
  pairs share them.
- ceiling: what the noise of the judging texts allows, root of their halves' reliability (Spearman-Brown); of ranks.
- told: share of the variance of predictions that is not their own noise, by the intervals' errors; allowed: Pearson
  that both noises allow, `ceiling sqrt(told)`; true slope: the slope with that of predictions taken off (errors in
  variables).
- same step: Pearson of a prediction from the very gradients of the step, so only held-out texts and curvature differ.
- cosine: Pearson of realized with minus the snapshot's cosine in AdamW's metric.
- sure, right: pairs that the judge calls sure, and the share of them whose sign is right; clear, right of clear: the
  same of those whose interval of 95% excludes 0.
- coordinates: Pearson of the prediction from as many coordinates as a record keeps.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from snapshot_tasks import PACKAGED, Course, file_tasks

from analysis.transfer.compared import pearson, slope, spearman, with_interval
from ortho_lora.record import vectors
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.judge import LEVEL, false_discovery
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.record.transfer import step_sizes, transfer
from ortho_lora.record.vectors import Vectors
from ortho_lora.tasks.data import Split, TaskData, hash_fraction, take
from ortho_lora.training.snapshots import grouped_batches

JUDGED = 64  # texts of a pass


def half_of(split: Split, half: int) -> Split:
    """One half of the texts, by a hash of its own."""
    first = [hash_fraction(origin, "judge") < 0.5 for origin in split.origins]
    return take(split, [place for place, one in enumerate(first) if one == (half == 0)])


class Place(Course):
    """A joint training, and what is asked of it at a place."""

    def snapshot_of(self, half: int | None, batches: int, size: int, *, whole: bool) -> Snapshot:
        """Of training texts, all or one half, and the first half of validation texts; `whole`: at all coordinates."""
        draws = self.draws(half, batches, size)
        held = {
            task.name: grouped_batches(
                half_of(task.evaluation["validation"], 0), batches, size, seed=0, step=0, once=True
            )
            for task in self.training.tasks
        }
        of_held = {task.name: _holding(task) for task in self.training.tasks}
        kept = vectors.COORDINATES, vectors._VALUES
        if whole:
            vectors.COORDINATES, vectors._VALUES = 2**40, 2**60
        try:
            return self.surgeon.snapshot(
                {name: [(draws[name][0], batch) for batch in drawn.indices] for name, (_, drawn) in draws.items()},
                lambda name, drawn: self.loss(drawn[0], drawn[1], 0, len(drawn[1])),
                targets={name: [(of_held[name], batch) for batch in of.indices] for name, of in held.items()},
                optimizer=self.training.optimizer,
                groups={name: drawn.groups for name, (_, drawn) in draws.items()},
                target_groups={name: of.groups for name, of in held.items()},
            )
        finally:
            vectors.COORDINATES, vectors._VALUES = kept

    def judged(self, texts: int) -> Floats:
        """Validation loss of each task on each half of the judging texts, [2, T]."""
        model, found = self.training.model, []
        model.eval()
        with torch.no_grad():
            for task in self.training.tasks:
                holding = _holding(task, 1)
                # Files may be in the order of their classes or sources.
                order = np.random.default_rng(0).permutation(len(holding.train.texts))[:texts].tolist()
                parts = [sorted(order[half::2], key=lambda at: len(holding.train.texts[at])) for half in (0, 1)]
                found.append([self._mean_loss(holding, part) for part in parts])
        return np.array(found).T

    def _mean_loss(self, task: TaskData, part: Sequence[int]) -> float:
        chunks = [part[start : start + JUDGED] for start in range(0, len(part), JUDGED)]
        return sum(len(chunk) * self.loss(task, chunk, 0, len(chunk)).item() for chunk in chunks) / len(part)

    def realized(self, of: Vectors, texts: int) -> dict[str, Floats]:
        """By what was asked, [2, S, T] each: what steps of these vectors did."""
        start = torch.nn.utils.parameters_to_vector(self.parameters).detach().clone()
        weights = np.ones(len(of.tasks))

        def after(wanted: Floats, mixture: Floats) -> Floats:
            step = step_sizes(of, mixture, "adamw") * (wanted @ of.mean)
            torch.nn.utils.vector_to_parameters(start + torch.from_numpy(step).to(start), self.parameters)
            return self.judged(texts)

        try:
            before, whole = after(0 * weights, weights), after(weights, weights)
            alone = [after(one, weights) for one in np.eye(len(weights))]
            without = [after(weights - one, weights - one) for one in np.eye(len(weights))]
        finally:
            torch.nn.utils.vector_to_parameters(start, self.parameters)
        return {
            "source": np.stack(alone, axis=-1) - before[..., None],
            "with and without": whole[..., None] - np.stack(without, axis=-1),
        }


def _holding(task: TaskData, half: int = 0) -> TaskData:
    """The task with validation texts in place of those of training, for `Course.loss`."""
    return replace(task, train=half_of(task.evaluation["validation"], half))


def some_coordinates(of: Vectors) -> Vectors:
    """As many as a record keeps, drawn at random."""
    width = len(of.rate)
    kept = np.sort(np.random.default_rng(0).permutation(width)[: vectors.COORDINATES])
    some = {name: getattr(of, name)[..., kept] for name in ("means", "held_out", "deviation", "rate", "eps", "past")}
    return replace(of, **some | {"rate": some["rate"] * np.float32(width / len(kept))})


def at_place(place: Place, step: int, batches: int, size: int, texts: int) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """What is found at a place, and every pair."""
    began = perf_counter()
    predicting = place.snapshot_of(1, batches, size, whole=True)
    stepping = place.snapshot_of(0, batches, size, whole=True)
    seconds = {"seconds of a snapshot": (perf_counter() - began) / 2}
    began = perf_counter()
    assert predicting.vectors is not None
    assert stepping.vectors is not None
    came = place.realized(stepping.vectors, texts)
    seconds["seconds of the steps"] = perf_counter() - began
    count = len(place.names)
    weights, (target, source) = np.ones(count), np.indices((count, count)).reshape(2, -1)
    by = {"predicted": predicting.vectors, "same": stepping.vectors, "kept": some_coordinates(predicting.vectors)}
    found = {name: transfer([of], weights) for name, of in by.items()}
    frames = []
    for part, realized in came.items():
        effects = {name: of.pull if part == "source" else of.nats for name, of in found.items()}
        told = effects["predicted"]
        frame = pd.DataFrame({"step": step, "part": part, **{name: of.value for name, of in effects.items()}})
        frames.append(
            frame.assign(
                source=np.array(place.names)[source],
                target=np.array(place.names)[target],
                error=told.error,
                clear=told.p_value() < 0.05,
                sure=false_discovery(told.p_value()) <= LEVEL,
                cosine=predicting.estimates("adamw").value,
                realized=realized.mean(0).ravel(),
                first=realized[0].ravel(),
                second=realized[1].ravel(),
            )
        )
    rows = [{"step": step, "part": part} | row_of(frame) | seconds for part, frame in zip(came, frames, strict=True)]
    return rows, pd.concat(frames)


def row_of(frame: pd.DataFrame) -> dict[str, Any]:
    """What is told of the pairs of one place and one question."""
    others, own = (frame[is_own == (frame["source"] == frame["target"])] for is_own in (False, True))
    row: dict[str, Any] = {}
    for name, of in (("pearson", pearson), ("spearman", spearman), ("slope", slope)):
        row |= dict(zip((name, f"{name} low", f"{name} high"), with_interval(others, of), strict=True))
    told = 1 - (others["error"] ** 2).mean() / others["predicted"].var()
    ceiling, of_ranks = (np.sqrt(max(_reliability(one), 0.0)) for one in (others, others.rank(numeric_only=True)))
    row |= {
        "ceiling": ceiling,
        "ceiling of ranks": of_ranks,
        "told": told,
        "allowed": ceiling * np.sqrt(max(told, 0.0)),
    }
    row["true slope"] = row["slope"] / told
    row |= {"same step": _pearson(others, "same"), "coordinates": _pearson(others, "kept")}
    row["cosine"] = -_pearson(others.dropna(subset="cosine"), "cosine")
    sure, clear = others[others["sure"]], others[others["clear"]]
    row |= {"pairs": len(others), "sure": len(sure), "right": _right(sure)}
    row |= {"clear": len(clear), "right of clear": _right(clear)}
    return row | {"own pearson": _pearson(own), "own right": _right(own[own["sure"]])}


def _pearson(frame: pd.DataFrame, column: str = "predicted") -> float:
    return pearson(frame.assign(predicted=frame[column]))


def _right(frame: pd.DataFrame) -> float:
    return float((np.sign(frame["predicted"]) == np.sign(frame["realized"])).mean()) if len(frame) else np.nan


def _reliability(frame: pd.DataFrame) -> float:
    halves = float(np.corrcoef(frame["first"], frame["second"])[0, 1])
    return 2 * halves / (1 + halves)


def main(
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.")] = PACKAGED,
    model: Annotated[str, typer.Option(help="Packaged, or a directory.")] = "minilm",
    data: Annotated[Path | None, typer.Option(help="Directory of NAME.train.csv; their tasks join the others.")] = None,
    places: Annotated[
        str, typer.Option(help="Steps at which it is asked; the training is a quarter longer.")
    ] = "20,60,120",
    batches: Annotated[int, typer.Option(min=8, help="Of every task in a snapshot.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of each.")] = 16,
    texts: Annotated[int, typer.Option(min=16, help="Of every task that judge, at most.")] = 512,
    pairs: Annotated[Path | None, typer.Option(help="CSV file of every pair to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print how predicted transfer agrees with what steps do."""
    stops = [int(part) for part in places.split(",")]
    names: Any = tasks if data is None else [*filter(None, tasks.split(",")), *file_tasks(data)]
    place = Place(seed=0, model=model, tasks=names, steps=max(stops) * 5 // 4, batch_size=batch_size)
    rows, frames = [], []
    for step in place.to(stops):
        found, frame = at_place(place, step, batches, batch_size, texts)
        rows += found
        frames.append(frame)
        if pairs is not None:
            pd.concat(frames).to_csv(pairs, index=False)
        if not as_json:
            columns = [f"{row['part']}, step {row['step']}" for row in found]
            table = pd.DataFrame(found, index=columns).drop(columns=["part", "step"]).T
            print(table.to_string(float_format=lambda value: f"{value:.3f}"), "\n", flush=True)
    if as_json:
        print(json.dumps(rows))


if __name__ == "__main__":
    typer.run(main)
