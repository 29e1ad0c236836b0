"""Which runs answer a study's question: from its file to configurations, each trained once."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations, product
from typing import Any

from ortho_lora.errors import OrthoLoraError, nearest
from ortho_lora.record.study import Cell, Choice, Settings, Use
from ortho_lora.study.file import StudyFile
from ortho_lora.tasks.specs import DialTask
from ortho_lora.training.config import Config, load_config

INCIDENTAL = frozenset({"checkpoint_every", "device", "eval_batch_size", "flush_rows", "flush_seconds", "threads"})
"""Settings of how a run is carried out. Runs that differ in nothing else are one run."""


@dataclass(frozen=True)
class Plan:
    """Runs, and what they are for."""

    uses: tuple[Use, ...] = ()
    configs: Mapping[str, Config] = field(default_factory=dict)
    """By run, in the order in which they are trained."""

    def __add__(self, other: "Plan") -> "Plan":
        return Plan(tuple(_distinct([*self.uses, *other.uses])), {**self.configs, **other.configs})


def tuning(file: StudyFile) -> Plan:
    """The runs that settings are chosen by: every candidate with every tuning seed, where there is a choice.

    Raises:
        OrthoLoraError: a configuration is refused; the sentence says of which method, condition and candidate.
    """
    return _plan(
        file,
        (
            (cell, candidate, seed)
            for seed in file.tuning_seeds
            for cell in cells(file)
            for candidate in file.candidates(cell.method)
            if len(file.candidates(cell.method)) > 1
        ),
    )


def reporting(file: StudyFile, choices: Iterable[Choice]) -> Plan:
    """The runs that results are told of: the chosen candidate with every seed, and pairs of tasks alone.

    A cell with candidates and without a choice among `choices` has none.

    Raises:
        OrthoLoraError: as `tuning`.
    """
    chosen = {choice.cell.key: choice.candidate for choice in choices}
    chosen |= {cell.key: _first(file, cell) for cell in cells(file) if len(file.candidates(cell.method)) == 1}
    told = [(cell, chosen[cell.key]) for cell in cells(file) if cell.key in chosen]
    paired = [
        (cell.model_copy(update={"pair": pair}), candidate)
        for cell, candidate in told
        if cell.method in file.pairs
        for pair in _pairs(configure(file, cell, candidate, file.seeds[0]))
    ]
    return _plan(file, ((cell, candidate, seed) for seed in file.seeds for cell, candidate in [*told, *paired]))


def expected(file: StudyFile) -> Plan:
    """All runs, were each method's first candidate the best: for counting, and to refuse what cannot be trained."""
    first = [Choice(cell=cell, candidate=_first(file, cell)) for cell in cells(file)]
    return tuning(file) + reporting(file, first)


def cells(file: StudyFile) -> Iterator[Cell]:
    """Every method under every condition."""
    for labels in product(*file.axes.values()):
        for method in file.methods:
            yield Cell(method=method, condition=dict(zip(file.axes, labels, strict=True)))


def configure(file: StudyFile, cell: Cell, candidate: Settings, seed: int) -> Config:
    """The configuration of a run. A method's settings come before an axis's, and those before the base.

    Raises:
        OrthoLoraError: it is refused.
    """
    layers = [file.base, *(file.axes[axis][label] for axis, label in cell.condition.items())]
    settings: Settings = {}
    for layer in [*layers, file.methods[cell.method], candidate]:
        settings |= layer
    weights = settings.pop("loss_weights", {})
    try:
        config = load_config(overrides=settings | {"seed": seed, "selection_share": file.share})
        return _of_pair(_weighted(config, weights), cell.pair)
    except OrthoLoraError as error:
        raise OrthoLoraError(f"{describe(cell, candidate)}: {error}") from error


def describe(cell: Cell, candidate: Settings | None = None) -> str:
    """Like `joint at rank=4, learning_rate=0.001 on trec and spam`."""
    named = [f"{axis}={label}" for axis, label in cell.condition.items()]
    named += [f"{key}={value}" for key, value in (candidate or {}).items()]
    at = f" at {', '.join(named)}" if named else ""
    return f"{cell.method}{at}" + (f" on {' and '.join(cell.pair)}" if cell.pair else "")


def meaning(config: Config) -> dict[str, Any]:
    """The settings that decide what a run learns, but for those left at their defaults; equal for equal runs.

    What a later version of the program adds changes nothing here, as long as it is not set.
    """
    method = config.effective
    return {
        **config.model_dump(mode="json", exclude_defaults=True, exclude=set(INCIDENTAL)),
        **dict.fromkeys(("rule", "scope", "branches")),  # told by the method
        "tasks": config.model_dump(mode="json")["tasks"],
        "method": {
            "rule": method.rule, "scope": method.scope, "branches": method.branches, "single": config.method == "single"
        },
    }  # fmt: skip


def run_id(config: Config) -> str:
    """A readable name and a digest of the configuration: of nothing else, so that a later plan finds the run again."""
    digest = blake2b(json.dumps(meaning(config), sort_keys=True).encode(), digest_size=4).hexdigest()
    names = [task.name for task in config.tasks]
    tasks = "-".join(names) if len(names) <= 3 else f"{len(names)}-tasks"
    readable = f"{config.label}-{tasks}-r{config.rank}-lr{config.learning_rate:g}-s{config.seed}"
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)[:90]}-{digest}"


def _plan(file: StudyFile, wanted: Iterable[tuple[Cell, Settings, int]]) -> Plan:
    uses: list[Use] = []
    configs: dict[str, Config] = {}
    for cell, candidate, seed in wanted:
        config = configure(file, cell, candidate, seed)
        name = run_id(config)
        configs.setdefault(name, config)
        uses.append(Use(run_id=name, cell=cell, candidate=candidate, seed=seed))
    return Plan(tuple(_distinct(uses)), configs)


def _distinct(uses: Sequence[Use]) -> list[Use]:
    return list({(use.run_id, use.cell.key, use.seed, repr(use.candidate)): use for use in uses}.values())


def _first(file: StudyFile, cell: Cell) -> Settings:
    return file.candidates(cell.method)[0]


def _weighted(config: Config, weights: Any) -> Config:
    """With the tasks' loss weights by name."""
    names = [task.name for task in config.tasks]
    if not isinstance(weights, dict):
        raise OrthoLoraError(f"loss_weights: {weights!r} given, expected task names with weights.")
    if unknown := [str(name) for name in weights if name not in names]:
        raise OrthoLoraError(f"loss_weights: there is no task {unknown[0]!r}{nearest(unknown[0], names)}.")
    if not weights:
        return config
    settings = config.model_dump()
    for task in settings["tasks"]:
        task["loss_weight"] = weights.get(task["name"], task["loss_weight"])
    return load_config(overrides=settings)


def _pairs(config: Config) -> list[tuple[str, str]]:
    """The pairs of its tasks that can be trained alone: a twin only with its original."""
    return [
        (one.name, other.name)
        for one, other in combinations(config.tasks, 2)
        if all(
            not isinstance(task, DialTask) or task.twin_of == partner.name
            for task, partner in ((one, other), (other, one))
        )
    ]


def _of_pair(config: Config, pair: tuple[str, str] | None) -> Config:
    if pair is None:
        return config
    if config.groups:
        raise OrthoLoraError("pairs: two tasks share one adapter: leave methods with groups out of it.")
    settings = config.model_dump()
    return load_config(overrides=settings | {"tasks": [task for task in settings["tasks"] if task["name"] in pair]})
