"""A run in a notebook: what the pages show of it, as pandas frames and Plotly figures, read anew each time."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures
from analysis.conflict import queries
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.verdicts import worst_first
from analysis.figures import theme
from analysis.figures.standalone import Drawn
from analysis.figures.words import describe
from analysis.library import runs
from analysis.library.names import WHOLE, number
from analysis.library.runs import Run
from analysis.output.data import frame_of
from analysis.transfer.predicted import says_nats, target_progress, transfer_matrix, transfer_steps
from analysis.transfer.texts import texts_of
from analysis.transfer.words import MEANING, missing, told_of_targets, told_of_texts, unit_of
from ortho_lora.errors import OrthoLoraError


@dataclass(frozen=True, eq=False)
class Answer:
    """What a question of a run finds: its numbers, a figure of them where there is one to draw, and a sentence."""

    frame: pd.DataFrame
    figure: Drawn | None
    words: str

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        display(Markdown(self.words))  # type: ignore[no-untyped-call]
        display(self.frame if self.figure is None else self.figure)  # type: ignore[no-untyped-call]


class OpenRun:
    """A run that is looked at; it may still be training."""

    def __init__(self, path: str | Path) -> None:
        """Open a run.

        Raises:
            OrthoLoraError: there is no run in this directory, or it cannot be read.
        """
        self.path = runs.identified(Path(path))[0].path

    @property
    def run(self) -> Run:
        """Its state now."""
        return runs.run_at(self.path)

    @property
    def tasks(self) -> list[str]:
        return runs.info_of(self.run).task_names

    def conflicts(self) -> Answer:
        """How each pair of tasks agrees, with verdicts: the page *Tasks*; columns as of `queries.task_matrix`."""
        frame = frame_of("matrix", [self.path])
        figure = figures.task_heatmap(frame, self.tasks, "cosine") if len(frame) else None
        return Answer(frame, figure, describe(frame))

    def layers(self, one: str | None = None, other: str | None = None) -> Answer:
        """Where a pair of tasks agrees, layer by layer: by snapshots where there are any, else by steps.

        Args:
            one, other: the tasks; without, the pair with the strongest verdict.

        Raises:
            OrthoLoraError: there is no such task, or no pair.
        """
        if one is None or other is None:
            if not (pairs := diagnose(self.path).pairs):
                raise OrthoLoraError(f"{self.path}: no two tasks share an adapter there, so there is no pair to see.")
            worst = min(pairs, key=worst_first)
            one, other = worst.task_i, worst.task_j
        order = {task: place for place, task in enumerate(self.tasks)}
        pair = (one, other) if order.get(one, 0) <= order.get(other, 0) else (other, one)
        by_snapshots = bool(queries.extent(self.path).snapshots)
        frame = frame_of("snapshot-layers" if by_snapshots else "layer-step", [self.path], pair=pair)
        draw = figures.snapshot_map if by_snapshots else figures.layer_step_heatmap
        figure = draw(frame) if len(frame) else None
        of = "the tasks' mean gradients at each snapshot" if by_snapshots else "batches"
        return Answer(frame, figure, f"{pair[0]} – {pair[1]}: cosine of {of}, layer by layer.")

    def transfer(self, at: int | None = None) -> Answer:
        """What a step for one task does to another's validation loss: the page *Transfer*.

        Args:
            at: the step of one snapshot; None: all that count together.

        Returns:
            Columns as of `predicted.transfer_matrix`; no rows where no snapshot has held-out texts, and the words say
            how to get them.
        """
        frame = transfer_matrix(self.path, at)
        if not says_nats(frame):
            return Answer(frame, None, missing(runs.info_of(self.run), held_out=bool(transfer_steps(self.path))))
        told = " ".join(told_of_targets(frame, target_progress(self.path, at=at)))
        return Answer(frame, figures.effect_heatmap(frame), f"{told} {MEANING}")

    def texts(self, source: str, target: str, at: int | None = None) -> Answer:
        """Which held-out texts of one task a step for another harms and helps: the page *Start*.

        Args:
            source, target: the tasks.
            at: as of `transfer`.

        Returns:
            Columns as of `texts.texts_of`; no rows where no texts were recorded.

        Raises:
            OrthoLoraError: there is no such task.
        """
        for name in (source, target):
            if name not in self.tasks:
                raise OrthoLoraError(f"task {name!r}: expected one of {', '.join(self.tasks)}.")
        frame = texts_of(self.path, source, target, at)
        return Answer(frame, None, told_of_texts(frame, source, target))

    def diagnosis(self) -> Answer:
        """The verdict on each pair with its evidence, and what to try: the page *Diagnosis*."""
        frame = frame_of("verdicts", [self.path])
        found = diagnose(self.path)
        tried = " ".join(f"{of.text} {of.evidence}" for of in found.suggestions)
        figure = figures.strengths(frame) if len(frame) else None
        return Answer(frame, figure, f"{found.summary} {tried}")

    def __repr__(self) -> str:
        run, info = runs.identified(self.path)
        done = f"step {run.status.step} of {run.status.total}" if run.status else "not begun"
        return f"{run.run_id}: {run.state}, {done}, {info.method}, {', '.join(info.task_names)}"

    def _repr_html_(self) -> str:
        """In words and in coloured tables, which need nothing from anywhere."""
        parts = [f"<p><b>{escape(repr(self))}</b></p>"]
        conflicts = self.conflicts()
        if len(conflicts.frame):
            parts.append(f"<p>{escape(diagnose(self.path).summary)}</p>")
            parts.append(_table(_cosines(conflicts.frame), self.tasks, "cosine of two tasks' gradients", 1.0))
        transfer = self.transfer().frame
        if says_nats(transfer):
            factor, unit = unit_of(transfer)
            cells = {
                (row["target"], row["source"]): (factor * row["nats"], row["verdict"] != "not sure")
                for row in transfer.to_dict("records")
            }
            most = max(abs(value) for value, _ in cells.values() if value == value)
            title = f"what the column's task does to the row's validation loss, {unit} a step"
            parts.append(_table(cells, self.tasks, title, -most))
        return "".join(parts)


def open_run(path: str | Path) -> OpenRun:
    """Open a run in a notebook; raises as `OpenRun`."""
    return OpenRun(path)


def _cosines(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[float, bool]]:
    """Of the whole model where a snapshot tells it, else of one branch, B where there is one; both ways."""
    branch = next((name for name in (WHOLE, "B") if (frame["branch"] == name).any()), frame["branch"].iloc[0])
    rows: list[Mapping[Any, Any]] = frame[frame["branch"] == branch].to_dict("records")
    found = {}
    for row in rows:
        cell = row["cosine"], row["verdict"] in ("conflict", "aligned")
        found[row["task_i"], row["task_j"]] = found[row["task_j"], row["task_i"]] = cell
    return found


def _table(cells: Mapping[tuple[str, str], tuple[float, bool]], tasks: list[str], title: str, most: float) -> str:
    """A matrix in colour, by row and column; `most`: the value that is blue at its fullest. Bold: sure."""
    head = "".join(f"<th>{escape(task)}</th>" for task in tasks)
    body = ""
    for row in [task for task in tasks if any((task, other) in cells for other in tasks)]:
        body += f"<tr><th>{escape(row)}</th>"
        for column in tasks:
            value, sure = cells.get((row, column), (float("nan"), False))
            if value != value:
                body += "<td></td>"
                continue
            strength = min(abs(value / most), 1.0) * (0.6 if sure else 0.25)
            colour = theme.translucent((theme.along if value / most > 0 else theme.against)(False), round(strength, 2))
            shown = f"<b>{number(value)}</b>" if sure else number(value)
            body += f'<td style="background: {colour}">{shown}</td>'
        body += "</tr>"
    return f"<table><caption>{escape(title)}; bold: sure</caption><tr><th></th>{head}</tr>{body}</table>"
