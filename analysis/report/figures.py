"""The figures of a report, each with its words, its numbers, and the command that exports them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from analysis import figures
from analysis.conflict import queries
from analysis.diagnosis.diagnose import Diagnosis
from analysis.diagnosis.verdicts import measured, worst_first, worst_pair
from analysis.figures import standalone
from analysis.library.names import snapshots_at
from analysis.library.runs import Run, info_of
from analysis.output.data import DATA
from analysis.reading.database import Selection
from analysis.report.tables import Table, table_of
from analysis.transfer.advice import advised_groups
from analysis.transfer.predicted import says_nats, target_progress, transfer_matrix
from analysis.transfer.words import MEANING, told_of_groups, told_of_targets
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Identity

MOST_PAIRS = 4
"""Pairs that are shown layer by layer."""

_Draw = Callable[..., standalone.Drawn]
"""From a frame, with `dark`."""


@dataclass(frozen=True)
class Figure:
    """A figure, its words, and its numbers; `absent` says in a sentence why there is none."""

    id: str
    title: str
    help: str
    alt: str = ""
    document: dict[str, Any] | None = None  # of `standalone.document`
    table: Table | None = None
    command: str = ""  # that exports its numbers
    absent: str = ""


@dataclass(frozen=True)
class Part:
    """Figures under one heading."""

    id: str
    title: str
    text: str
    figures: tuple[Figure, ...]


def agreement_parts(run: Run, key: str, extent: queries.Extent, diagnosis: Diagnosis) -> list[Part]:
    """The tasks against each other, and layer by layer the pairs that matter.

    Args:
        run: one with pairs.
        key: what the names of its parts in the page begin with.
        extent, diagnosis: of the run.

    Raises:
        OrthoLoraError: its record cannot be read.
    """
    tasks, ours = list(extent.tasks), partial(_figure, run, key)
    where = f", of {snapshots_at(diagnosis.snapshots)}" if diagnosis.snapshots else ""
    shown = [
        ours(
            "matrix",
            "Cosine of each pair",
            f"Of the tasks' mean gradients{where}, without batch noise; the verdict is on it, and bold where it is "
            "conflict (red) or aligned (blue). Hatched: only its interval is known.",
            partial(figures.task_heatmap, tasks=tasks, value="cosine"),
        )
    ]
    if extent.of_steps:
        shown.append(
            _figure(
                run,
                f"{key}-batch",
                "matrix",
                "Mean batch cosine of each pair",
                "What the rule saw, before and after it. On the diagonal, in italics: what two halves of a task's own "
                "batch agree on; no task can be expected to agree with another better than with itself.",
                partial(figures.task_heatmap, tasks=tasks, noise=queries.noise(run.path, Selection())),
            )
        )
    conflicts = sorted((pair for pair in diagnosis.pairs if pair.verdict == "conflict"), key=worst_first)
    pairs = [(pair.task_i, pair.task_j) for pair in conflicts[:MOST_PAIRS]]
    text = (
        "The pairs that conflict, the strongest first."
        if len(conflicts) <= MOST_PAIRS
        else f"The {MOST_PAIRS} strongest of {len(conflicts)} pairs that conflict; `export` has them all."
    )
    if not conflicts:
        text = "No pair is found in conflict; this is the one with the lowest cosine of its verdict."
        found = measured(queries.task_matrix(run.path, Selection()))
        pairs = [worst_pair(found)] if len(found) else []
    parts = [Part(f"{key}-agreement", "Task by task", "", tuple(shown))]
    if pairs:
        layers = [one for place, pair in enumerate(pairs) for one in _of_pair(run, f"{key}-pair{place}", pair, extent)]
        parts.append(Part(f"{key}-layers", "Layer by layer, step by step", text, tuple(layers)))
    return parts


def _of_pair(run: Run, key: str, pair: tuple[str, str], extent: queries.Extent) -> list[Figure]:
    names, ours = f"{pair[0]} – {pair[1]}", partial(_figure, run, key, pair=pair)
    shown = []
    if extent.snapshots:
        shown.append(
            ours(
                "snapshot-layers",
                f"{names}: where, without noise",
                "Cosine of mean gradients by layer at each snapshot; marked where it has a verdict, hatched where only "
                "an interval is known.",
                figures.snapshot_map,
            )
        )
    if not extent.of_steps:
        return shown
    return [
        *shown,
        ours(
            "layer-step",
            f"{names}: where and since when",
            "Mean batch cosine by layer and step, before projection above, after it below. Hatched grey: not measured, "
            "as branch A at step 0, where its gradient is zero.",
            figures.layer_step_heatmap,
        ),
        ours(
            "pair-over-steps",
            f"{names}: over the steps",
            "Mean batch cosine of all blocks; the band reaches from the lowest to the highest of them.",
            partial(figures.pair_lines, pair=pair),
        ),
    ]


def transfer_part(run: Run, key: str) -> Part | None:
    """What tasks do to each other's validation losses; None: no snapshot has held-out texts."""
    matrix = transfer_matrix(run.path)
    if not says_nats(matrix):
        return None
    told = " ".join(told_of_targets(matrix, target_progress(run.path)))
    shown = _figure(run, key, "transfer", "What the column's task does to the row's", told, figures.effect_heatmap)
    text = f"{MEANING} Bold and in full colour: sure. {told_of_groups(advised_groups(run.path))}"
    return Part(f"{key}-transfer", "Transfer", text, (shown,))


def projection_part(run: Run, key: str, extent: queries.Extent) -> Part:
    """How often, how far, and who against whom gradients are projected, and what that does to the update."""
    if info_of(run).rule == "sum":
        text = "This run adds the gradients up as they are: nothing is projected, and every weight is 1."
        return Part(f"{key}-projection", "Projection", text, ())
    text = (
        "A projection takes out of one task's gradient what points against another's. It is made whenever their "
        "product is negative, noise or not: of gradients that have nothing to do with each other, about half."
    )
    ours = partial(_figure, run, key)
    shown = (
        ours(
            "projection-over-steps",
            "How often and how far, over the steps",
            "Share of the directed pairs that are projected, and mean share of the norm that a gradient loses.",
            figures.projection_steps,
        ),
        ours(
            "projection-by-pair",
            "Who is projected against whom",
            "The task of the row loses what points against the task of the column.",
            partial(figures.projection_pairs, tasks=list(extent.tasks)),
        ),
        ours("projection-by-layer", "In which layers", "", figures.projection_layers),
        ours(
            "weights",
            "What it does to the update",
            "The update is a weighted sum of the tasks' own gradients. Above 1: others, projected against this task, "
            "carry a part of its gradient.",
            figures.weights_over_steps,
        ),
    )
    return Part(f"{key}-projection", "Projection", text, shown)


def metric_figures(runs: Sequence[Run], key: str) -> list[Figure]:
    """Metrics and losses, a line a run."""
    paths = [run.path for run in runs]
    shown = []
    try:
        values = queries.metrics(paths)
    except OrthoLoraError as error:
        shown.append(Figure(f"{key}-values", "Metrics", "", absent=str(error)))
    else:
        if values.empty:
            said = "Nothing is evaluated. A training loop of one's own records no evaluation, only its losses."
            shown.append(Figure(f"{key}-values", "Metrics", "", absent=said))
        evaluated = set(values["run"])
        infos = {run.run_id: info_of(run) for run in runs if run.run_id in evaluated}
        for place, split in enumerate(dict.fromkeys(values["split"])):
            command = export_command(runs[0], "metrics")
            shown.append(_metric_figure(values, infos, str(split), f"{key}-values{place}", command))
    shown.append(
        _drawn(
            f"{key}-losses",
            "Training loss",
            "Mean loss of each task's batches.",
            lambda: queries.losses(paths),
            figures.loss_lines,
            export_command(runs[0], "losses"),
        )
    )
    return shown


def _metric_figure(values: pd.DataFrame, infos: dict[str, Identity], split: str, key: str, command: str) -> Figure:
    primary = {(run, task.name, task.metrics[0]) for run, info in infos.items() for task in info.tasks if task.metrics}
    of_split = values[values["split"] == split]
    keys = zip(of_split["run"], of_split["task"], of_split["metric"], strict=True)
    shown = of_split[[key in primary for key in keys]].reset_index(drop=True)
    return _drawn(
        key,
        f"Each task's primary metric, {split}",
        "Evaluated on the same examples every time. Dashed: always the most frequent class.",
        lambda: shown,
        partial(figures.metric_lines, infos=infos, split=split),
        command,
    )


def _figure(
    run: Run, key: str, name: str, title: str, words: str, draw: _Draw, pair: tuple[str, str] | None = None
) -> Figure:
    """A figure of the data of that name in `output.data`, which exports it."""
    question = partial(DATA[name].question, run.path, Selection(), pair)
    return _drawn(f"{key}-{name}", title, words, question, draw, export_command(run, name, pair))


def _drawn(key: str, title: str, words: str, question: Callable[[], pd.DataFrame], draw: _Draw, command: str) -> Figure:
    """A figure of what a question answers; where that is nothing, or an error, it says so."""
    try:
        frame = question()
    except OrthoLoraError as error:
        return Figure(key, title, words, absent=str(error))
    if frame.empty:
        return Figure(key, title, words, absent="Nothing is recorded of this yet.")
    document = standalone.document(lambda dark: draw(frame, dark=dark))
    return Figure(key, title, words, figures.describe(frame), document, table_of(frame), command)


def export_command(run: Run, name: str, pair: tuple[str, str] | None = None) -> str:
    """The command that writes a figure's numbers, from the directory in which the runs' directory stands."""
    chosen = ["--pair", *pair] if pair else []
    where = f"{run.path.parent.name}/{run.run_id}"
    return shlex.join(["python", "-m", "analysis", "export", where, "--what", name, *chosen])
