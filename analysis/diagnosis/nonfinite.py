"""Losses and gradients of a run that were not finite: what a diagnosis begins with.

Where one was, every later step may rest on it, unless the step was left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.diagnosis.advice import Suggestion
from analysis.reading.database import ask


@dataclass(frozen=True)
class Nonfinite:
    """A task whose loss or gradient was not finite in some steps."""

    task: str
    first: int  # step
    last: int
    steps: int  # in which it was not
    skipped: int  # of them, left out of the training
    loss: str  # in the first of them: `nan`, `inf`, `-inf`, or a number where only the gradient was not finite


_FOUND = """
    WITH known AS (
        SELECT step, CAST(task AS VARCHAR) AS task FROM steps WHERE NOT isfinite(loss)
        UNION SELECT step, CAST(task AS VARCHAR) FROM events WHERE event = 'nonfinite' AND task IS NOT NULL
    ),
    told AS (
        SELECT known.step, known.task, coalesce(CAST(any_value(steps.loss) AS VARCHAR), 'not known') AS loss,
            known.step IN (SELECT step FROM events WHERE event = 'skipped') AS skipped
        FROM known LEFT JOIN steps ON steps.step = known.step AND steps.task = known.task GROUP BY ALL
    )
    SELECT task, min(step) AS first, max(step) AS last, count(*) AS steps, count_if(skipped) AS skipped,
        arg_min(loss, step) AS loss
    FROM told GROUP BY task ORDER BY first, task
    """
# Formerly a loss that was not finite was null, as one that was not known; but a task that has a weight took part, and
# has no norm on any block only where its gradient was not finite.
_FORMERLY = """
    WITH told AS (
        SELECT step, CAST(task AS VARCHAR) AS task FROM norms
        WHERE step IN (SELECT step FROM steps WHERE loss IS NULL)
        GROUP BY ALL HAVING count(weight) > 0 AND count(norm_before) = 0
    )
    SELECT task, min(step) AS first, max(step) AS last, count(*) AS steps, 0 AS skipped, 'not finite' AS loss
    FROM told GROUP BY task ORDER BY first, task
    """


def nonfinite(run: Path) -> tuple[Nonfinite, ...]:
    """The tasks of a run that had any, the earliest first.

    Raises:
        OrthoLoraError: a part of it cannot be read.
    """
    found = ask(run, ["steps", "events"], _FOUND)
    if found.empty and ask(run, ["steps"], "SELECT count(*) > count(loss) AS unknown FROM steps")["unknown"].any():
        found = ask(run, ["steps", "norms"], _FORMERLY)
    return tuple(
        Nonfinite(str(row.task), int(row.first), int(row.last), int(row.steps), int(row.skipped), str(row.loss))
        for row in found.itertuples()
    )


def told(found: Sequence[Nonfinite]) -> str:
    """What happened, in a sentence or two."""
    first, *others = found
    said = f"The loss or gradient of {first.task} was not finite at step {first.first} (loss {first.loss})"
    said += f", and in {first.steps} steps in all." if first.steps > 1 else "."
    if others:
        said += f" So were those of {', '.join(f'{of.task} (from step {of.first}, {of.steps})' for of in others)}."
    if all(of.skipped == of.steps for of in found):
        return f"{said} These steps were left out of the training."
    return f"{said} What was trained and measured from there on may rest on it."


def begin_with(
    found: Sequence[Nonfinite], summary: str, suggestions: Sequence[Suggestion]
) -> tuple[str, tuple[Suggestion, ...]]:
    """A diagnosis in short and its suggestions, beginning with what was not finite."""
    if not found:
        return summary, tuple(suggestions)
    first = found[0]
    look = Suggestion(
        "finite losses",
        f"Look at the batch of {first.task} at step {first.first}; lower the learning rate, warm up, or clip."
        " on_nonfinite: skip leaves such steps out.",
        told(found),
    )
    return f"{told(found)} {summary}", (look, *(one for one in suggestions if one.kind != "nothing"))
