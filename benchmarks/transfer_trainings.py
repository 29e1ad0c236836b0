"""Is predicted transfer what a whole training does? Each pair of tasks trained together, against each task alone.

    python benchmarks/transfer_trainings.py --folder DIRECTORY
    python benchmarks/transfer_trainings.py --folder DIRECTORY --tasks "" --data DIRECTORY

Every task is trained alone and beside every other, with the same start and the same batches of it, for every seed. What
is done stands in the folder, so that the same command goes on where it was cut. *Harm* is the task's loss at the end,
on half of its validation texts, with the other task less without it.

All tasks together are trained once more, from another seed. Snapshots on its way, whose held-out texts are the other
half of the validation texts, predict, for an ordered pair of a target and a source:

- raw: mean of the cosines of the training's own steps, with minus.
- cosine: that of the snapshots in AdamW's metric, with minus.
- norms: logarithm of the ratio of the source's gradient norm to the target's.
- pull: what the source's gradient does in the metric of all tasks, by the target's progress alone.
- effect: progress in the pair's mixture less progress alone, by progress alone.
- effect, nats: the same in nats a step; also of each of the snapshots alone.
- simulated: loss after a training of the linearized model (`simulated.py`) on both less on the target's texts alone.

A row a predictor, over all ordered pairs: Pearson and Spearman with harm, with intervals of 95% from leaving out tasks
(jackknife), as pairs share them; within: Pearson when each target's mean is taken off; ceiling: what the seeds'
reliability allows their mean (Spearman-Brown).
"""

import json
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from simulated import Features, features_at, harm_of
from snapshot_tasks import PACKAGED, Course, file_tasks
from transfer_steps import Place, half_of

from analysis.transfer.compared import pearson, spearman, with_interval
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.record.transfer import only, progress, transfer
from ortho_lora.record.vectors import Vectors
from ortho_lora.surgery.gram import cosines
from ortho_lora.tasks.data import Split, TaskData, take
from ortho_lora.training.config import load_config
from ortho_lora.training.evaluation import encode, evaluate

OF_ALL = 100  # seed of the training that predicts


@dataclass(frozen=True)
class Study:
    """What is trained, and where results stand."""

    folder: Path
    settings: Mapping[str, Any]  # of a training
    texts: int  # of every task that judge, at most

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """As a configuration has them."""
        return [task.model_dump() for task in load_config(overrides=dict(self.settings)).tasks]

    def losses(self, names: Sequence[str], seed: int) -> dict[str, float]:
        """Of each task after a training of some of them together."""
        known = self.folder / f"{'+'.join(names)}-{seed}.json"
        if not known.is_file():
            began = perf_counter()
            chosen = [task for task in self.tasks if task["name"] in names]
            course = Course(seed=seed, **{**self.settings, "tasks": chosen})
            for _ in course.to([course.training.config.steps]):
                found = {
                    task.name: self._judged(course, place, task) for place, task in enumerate(course.training.tasks)
                }
            known.write_text(json.dumps(found))
            told = "  ".join(f"{name} {loss:.4f}" for name, loss in found.items())
            print(f"{known.stem}  {told}  {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        return dict(json.loads(known.read_text()))

    def _judged(self, course: Course, place: int, task: TaskData) -> float:
        split, training = _some(half_of(task.evaluation["validation"], 1), self.texts), course.training
        training.model.eval()
        pooled = encode(
            training.model, split, training.tokenizer,
            max_length=training.config.max_length, batch_size=64, device=training.device,
        )  # fmt: skip
        return evaluate(training.model, place, task, split, pooled)[0]["loss"]

    def harms(self, seeds: Sequence[int]) -> pd.DataFrame:
        """Of every ordered pair: source, target, and harm by seed."""
        names = [task["name"] for task in self.tasks]
        rows: dict[tuple[str, str], dict[int, float]] = {}
        for seed in seeds:
            alone = {name: self.losses([name], seed)[name] for name in names}
            for one, other in combinations(names, 2):
                together = self.losses([one, other], seed)
                for target, source in ((one, other), (other, one)):
                    rows.setdefault((source, target), {})[seed] = together[target] - alone[target]
        return pd.DataFrame([{"source": source, "target": target, **of} for (source, target), of in rows.items()])

    def of_all(self, places: Sequence[int], batches: int, examples: int) -> "OfAll":
        """The training of all tasks, and what is measured on its way."""
        known = self.folder / "all.pickle"
        if not known.is_file():
            course, size = Place(seed=OF_ALL, **self.settings), int(self.settings["batch_size"])
            raw, snapshots, features = [], [], []
            for step in course.to(range(max(places) + 1)):
                if step in places:
                    snapshots.append(course.snapshot_of(None, batches, size, whole=False))
                    print(f"snapshot at step {step}", file=sys.stderr, flush=True)
                if step == places[len(places) // 2]:
                    held_out = {task.name: half_of(task.evaluation["validation"], 0) for task in course.training.tasks}
                    assert snapshots[-1].vectors is not None
                    features.append(features_at(course, snapshots[-1].vectors, examples, held_out))
                    print(f"features at step {step}", file=sys.stderr, flush=True)
                if step % 5 == 0:
                    measured = course.training.measure(course.training.sampler.next())
                    raw.append(cosines(measured[0].gram.sum(0)).numpy())
            known.write_bytes(pickle.dumps(OfAll(np.nanmean(raw, axis=0), snapshots, features[0])))
        found = pickle.loads(known.read_bytes())
        assert isinstance(found, OfAll)
        return found


def _some(split: Split, texts: int) -> Split:
    """Of a split, drawn at random: files may be in an order."""
    return take(split, sorted(np.random.default_rng(0).permutation(len(split.texts))[:texts].tolist()))


@dataclass(frozen=True, eq=False)
class OfAll:
    """What was measured in the training of all tasks."""

    raw: Floats  # mean cosines of its steps, [T, T]
    snapshots: list[Snapshot]
    features: Features

    def predicted(self, harms: pd.DataFrame) -> pd.DataFrame:
        """With a column for each predictor."""
        return pd.DataFrame([self._row(*of) for of in harms[["target", "source"]].itertuples(index=False)])

    def _row(self, target: str, source: str) -> dict[str, float]:
        names = list(self.snapshots[0].tasks)
        i, j = names.index(target), names.index(source)
        vectors = [of.vectors for of in self.snapshots if of.vectors is not None]
        ones = np.ones(len(names))

        def progressed(of: list[Vectors]) -> tuple[float, float]:
            """With the source, and alone."""
            pair, own = (float(progress(of, only(ones, mixture)).value[i]) for mixture in ([i, j], [i]))
            return pair, own

        pair, own = progressed(vectors)
        alone = {f"effect, nats, {n}.": np.subtract(*progressed([of])) for n, of in enumerate(vectors, 1)}
        cosine = np.mean([of.estimates("adamw").value.reshape((len(names),) * 2) for of in self.snapshots], axis=0)
        norms = np.log(np.mean([np.linalg.norm(of.mean, axis=1) for of in vectors], axis=0))
        pull = transfer(vectors, ones).pull.value.reshape((len(names),) * 2)
        return {
            "raw": -self.raw[i, j],
            "cosine": -cosine[i, j],
            "norms": norms[j] - norms[i],
            "pull": pull[i, j] / -own,
            "effect": (pair - own) / -own,
            "effect, nats": pair - own,
            **(alone if len(alone) > 1 else {}),
            "simulated": harm_of(self.features, target, source),
        }


def row_of(name: str, predicted: Floats, harms: pd.DataFrame, seeds: Sequence[int]) -> dict[str, Any]:
    """How a predictor agrees with harm."""
    frame = harms[["source", "target"]].assign(predicted=predicted, realized=harms[list(seeds)].mean(axis=1)).dropna()
    row: dict[str, Any] = {"predictor": name, "pairs": len(frame)}
    for kind, of in (("pearson", pearson), ("spearman", spearman)):
        row |= dict(zip((kind, f"{kind} low", f"{kind} high"), with_interval(frame, of), strict=True))
    numbers = ["predicted", "realized"]
    within = frame.assign(**(frame[numbers] - frame.groupby("target")[numbers].transform("mean")))
    return row | {"within": pearson(within)}


def main(
    folder: Annotated[
        Path | None, typer.Option(help="Where results are kept; what is there is not trained again. Else nowhere.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.")] = PACKAGED,
    model: Annotated[str, typer.Option(help="Packaged, or a directory.")] = "minilm",
    data: Annotated[Path | None, typer.Option(help="Directory of NAME.train.csv; their tasks join the others.")] = None,
    steps: Annotated[int, typer.Option(min=4, help="Of a training.")] = 120,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of every task in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Of the adapter.")] = 1e-3,
    seeds: Annotated[int, typer.Option(min=1, help="Of every training.")] = 2,
    places: Annotated[str, typer.Option(help="Steps at which snapshots are taken.")] = "30,60,90",
    batches: Annotated[int, typer.Option(min=8, help="Of every task in a snapshot.")] = 64,
    examples: Annotated[int, typer.Option(min=16, help="Of every task in a simulated training.")] = 768,
    texts: Annotated[int, typer.Option(min=16, help="Of every task that judge, at most.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print how predictors agree with what whole trainings do."""
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    names: Any = tasks if data is None else [*filter(None, tasks.split(",")), *file_tasks(data)]
    settings = {"model": model, "tasks": names, "steps": steps, "batch_size": batch_size}
    settings["learning_rate"] = learning_rate
    study = Study(folder, {"dropout": 0.0, **settings}, texts)
    of_all = study.of_all([int(part) for part in places.split(",")], batches, examples)
    chosen = list(range(seeds))
    harms = study.harms(chosen)
    predicted = of_all.predicted(harms)
    pd.concat([harms, predicted], axis=1).to_csv(folder / "pairs.csv", index=False)
    rows = [row_of(name, predicted[name].to_numpy(), harms, chosen) for name in predicted]
    of_seeds = harms[chosen].corr().to_numpy()[np.triu_indices(seeds, 1)].mean() if seeds > 1 else np.nan
    ceiling = np.sqrt(max(seeds * of_seeds / (1 + (seeds - 1) * of_seeds), 0.0))
    facts = {"seeds agree": of_seeds, "ceiling": ceiling, "mean harm": harms[chosen].to_numpy().mean()}
    facts |= {"deviation of harm": harms[chosen].mean(axis=1).std()}
    if as_json:
        print(json.dumps({"predictors": rows, **facts}))
    else:
        print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.2f}"))
        print(pd.Series(facts).to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    typer.run(main)
