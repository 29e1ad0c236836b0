"""The study that tries the advice of a run: groups and weights that its snapshots promise most of, against others.

Beside joint and single training, and the run's own method, it trains random groups of the same sizes: where these do as
well, it is the splitting that helped, and not the advice.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import yaml

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import advice
from ortho_lora.record.advice import Groups
from ortho_lora.record.jackknife import Effects
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import RunInfo, groups_text, read_run
from ortho_lora.record.snapshots import metric_of, together
from ortho_lora.record.study import Advice, Predicted, Settings
from ortho_lora.record.tables import SCHEMAS
from ortho_lora.record.transfer import progress_rows
from ortho_lora.record.vectors import Vectors, by_step
from ortho_lora.study.file import StudyFile
from ortho_lora.surgery.methods import METHODS
from ortho_lora.training.config import Config, load_config

RANDOM = 2
"""Draws of random groups."""
SEED = 0
"""Of these draws."""
DRAWS = 1000
"""At most, until there are so many others: of three tasks in two groups there are two."""
_OWN = {"seed", "method", "rule", "scope", "branches", "groups", "selection_share"}
_SNAPSHOTS = {name for name in Config.model_fields if name.startswith("snapshot")}  # they do nothing to a training
FEWEST = 3
"""Tasks of which there are groups that are neither all together nor each alone."""


@dataclass
class _Trial:
    """Methods, and what they are promised."""

    methods: list[str | dict[str, Settings]] = field(default_factory=list)
    predicted: dict[str, Predicted] = field(default_factory=dict)

    def add(self, name: str, **settings: Any) -> None:
        """A method of the study; without settings one of `train`."""
        self.methods.append({name: settings} if settings else name)

    def promise(self, name: str, gain: Effects, elsewhere: float | None = None) -> None:
        low, high = (_short(float(end[0])) for end in gain.interval())
        value, known = _short(float(gain.value[0])), None if elsewhere is None else _short(elsewhere)
        self.predicted[name] = Predicted(gain=value, low=low, high=high, elsewhere=known)

    def lines(self) -> list[str]:
        """What is predicted, a line a method."""
        return [
            f"  {name}: {_milli(of.gain)} ({_milli(of.low)} to {_milli(of.high)})"
            + ("" if of.elsewhere is None else f", on other texts {_milli(of.elsewhere)}")
            for name, of in self.predicted.items()
        ]


def text_from_advice(run: Path) -> str:
    """The file of the study that tries the advice of a run, with what to know of it as a comment.

    Args:
        run: directory of a run, or of a probe of it, with snapshots that have held-out texts.

    Raises:
        OrthoLoraError: not a run of `train`, or nothing is advised by what it recorded.
    """
    info = read_run(run)
    config = _config(run, info)
    trial, told, split = _trial(info, config, _vectors(run, info))
    file = {
        "title": f"Does the advice of {info.run_id} help?",
        "advice": told.model_dump(mode="json", exclude_none=True),
        "base": config.model_dump(mode="json", exclude_defaults=True, exclude=_OWN | _SNAPSHOTS),
        "methods": trial.methods,
        "seeds": list(StudyFile.model_fields["seeds"].default),
    } | ({"selection_share": config.selection_share} if config.selection_share else {})
    comment = "".join(f"# {line}\n" for line in _words(trial, told, split))
    return comment + yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=120)


def words_of(text: str) -> list[str]:
    """The comment that such a file begins with, line by line."""
    lines = text.splitlines()
    return [line.removeprefix("# ") for line in lines[: next(at for at, line in enumerate(lines) if line[:1] != "#")]]


def _trial(info: RunInfo, config: Config, places: Sequence[Vectors]) -> tuple[_Trial, Advice, str]:
    """What is trained, what it is from, and the groups in words."""
    weights = np.array([task.loss_weight for task in info.tasks])
    metric, names = metric_of(config.optimizer), places[0].tasks
    found = advice.best_groups(places, weights, metric)
    best = advice.best_weights(places, weights, metric)
    place = advice.advised(found, float(np.nansum(progress_rows(places, weights, metric)[0])))
    between = 0 < place < len(names) - 1  # else it is joint or single, and the best split in two is tried beside it
    chosen = found[place if between else 1]
    split = None if len(names) < FEWEST else "advised-groups" if between else "best-split"

    def named(groups: Groups) -> str:
        return groups_text([names[task] for task in group] for group in sorted(groups))

    trial = _Trial()
    trial.add("joint")
    others = [] if split is None else random_groups(chosen.groups, RANDOM, SEED)
    if split is not None:
        trial.add(split, method="joint", groups=named(chosen.groups))
        trial.promise(split, chosen.gain, chosen.elsewhere)
    for number, groups in enumerate(others, 1):
        trial.add(f"random-groups-{number}", method="joint", groups=named(groups))
        trial.promise(f"random-groups-{number}", advice.gain_of(groups, places, weights, metric))
    shares = {name: _short(weight) for name, weight in zip(names, best.weights.tolist(), strict=True)}
    trial.add("advised-weights", method="joint", loss_weights=shares)
    trial.promise("advised-weights", best.gain, best.elsewhere)
    trial.add("single")
    trial.promise("single", found[-1].gain, found[-1].elsewhere)
    _add_own(trial, config)
    told = Advice(
        run=info.run_id,
        adapters=place + 1,
        advised=split if between and split else "single" if place else "joint",
        groups=split,
        random=tuple(f"random-groups-{number}" for number in range(1, len(others) + 1)),
        predicted=trial.predicted,
    )
    return trial, told, named(chosen.groups)


def _words(trial: _Trial, told: Advice, split: str) -> list[str]:
    """What to know of the study before it begins."""
    if told.advised == told.groups:
        said = [f"Advised: {told.adapters} adapters, {split}."]
    elif told.advised == "single":
        said = ["Advised: an adapter for each task, which is `single`."]
    else:
        said = ["Advised: one adapter for all tasks, which is `joint`: no split is worth another on other texts."]
    if told.groups is None:
        said.append("Two tasks have no other groups to try.")
    else:
        if told.groups != told.advised:
            said.append(f"Tried beside it: the best split in two, {split}.")
        said.append(f"Random groups: {len(told.random)} draws of the same sizes.")
    said.append("Predicted, mnat a step of the summed validation loss against one adapter (95%), below 0 is better:")
    return [*said, *trial.lines(), "Change this file as you like: the same command goes on with what stands here."]


def random_groups(like: Groups, count: int, seed: int) -> list[Groups]:
    """Other groups of the same sizes, at most so many and each once, drawn at random.

    Args:
        like: groups of tasks, by their places.
        count: how many.
        seed: of the draws.
    """
    sizes = [len(group) for group in like]
    tasks, rng = sum(sizes), np.random.default_rng(seed)
    if len(sizes) in (1, tasks):
        return []
    found = {_canonical(like): like}
    for _ in range(DRAWS):
        if len(found) > count:
            break
        order = iter(rng.permutation(tasks).tolist())
        groups = _canonical([tuple(next(order) for _ in range(size)) for size in sizes])
        found.setdefault(groups, groups)
    return list(found.values())[1:]


def _canonical(groups: Iterable[Iterable[int]]) -> Groups:
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _add_own(trial: _Trial, config: Config) -> None:
    """The run's method, where it is not there yet."""
    if config.label not in METHODS:
        parts = {name: value for name in ("rule", "scope", "branches") if (value := getattr(config, name)) is not None}
        trial.add(re.sub(r"[^A-Za-z0-9._-]", "-", config.label), method=config.method, **parts)
    elif config.label != "joint":
        trial.add(config.label)


def _config(run: Path, info: RunInfo) -> Config:
    """Settings of the run, or of the one that was probed, where it lies beside the probe."""
    if (
        info.probe is not None
        and info.probe.run is not None
        and (beside := run.resolve().parent / info.probe.run).exists()
    ):
        info = read_run(beside)
    if "tasks" not in info.config:
        raise OrthoLoraError(
            f"{run}: a loop of its own trained it, so nothing here can train it again: a study needs a run of"
            " `ortho-lora train`."
        )
    return load_config(overrides=info.config)


def _vectors(run: Path, info: RunInfo) -> list[Vectors]:
    """Of the snapshots that count together."""
    known = _rows(run, "snapshot_tasks")
    found = by_step(_rows(run, "vectors"), known, run / "vectors")
    rows = [(row["step"], row["task"], row["groups"]) for row in known.to_pylist() if not row["target"]]
    steps = [step for step in together(rows, of_training=bool(info.config.get("snapshots"))) if step in found]
    places = [found[step] for step in steps]
    if not places:
        raise OrthoLoraError(
            f"{run}: no snapshot of it has held-out texts, which advice is made from. `ortho-lora probe {run}` takes"
            " one at its checkpoint: give that probe; in training do `snapshots: 2` and `snapshot_held_out: 64`."
        )
    weights = np.ones(len(places[0].tasks))
    if np.isnan(progress_rows(places, weights, metric_of(info.config.get("optimizer")))[0]).all():
        raise OrthoLoraError(
            f"{run}: no task has held-out texts in 8 groups, or its snapshots do not tell the learning rate: give more"
            " validation texts."
        )
    return places


def _rows(run: Path, table: str) -> pa.Table:
    files = [str(path) for path in part_files(run, table)]
    try:
        return ds.dataset(files, schema=SCHEMAS[table]).to_table() if files else SCHEMAS[table].empty_table()
    except (OSError, pa.ArrowException) as error:
        raise OrthoLoraError(f"{run / table}: cannot be read ({error}).") from error


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _milli(nats: float) -> str:
    return f"{1e3 * nats:+.3g}"
