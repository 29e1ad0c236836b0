"""Diagnoses and replays as text for a terminal. Names come from files of others: they are never read as markup."""

import json
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.conflict.replay import NOTE, Replay
from analysis.diagnosis.diagnose import Diagnosis
from analysis.diagnosis.sentences import HOW_TO_READ, notes_on, sentences, title, undecided
from analysis.diagnosis.verdicts import Pair
from analysis.library.names import branch_cell, interval, number
from analysis.outcomes.beside import Outcome
from analysis.output.data import DATA
from ortho_lora.errors import plain
from ortho_lora.record.judge import TOLD
from ortho_lora.record.schema import Identity


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Verdicts first, then each pair that has one, outcomes, suggestions, and how to read it."""
    console.print(Text(plain(title(diagnosis)), "bold"))
    console.print(Text(plain(diagnosis.summary)))
    console.print(_verdicts(diagnosis.pairs))
    for line in undecided(diagnosis.pairs):
        console.print(Text(plain(line)))
    for pair in diagnosis.pairs:
        if pair.verdict in TOLD:
            console.print(Text(plain(f"{pair.task_i} – {pair.task_j}: {pair.verdict}"), "bold"))
            for sentence in sentences(pair):
                console.print(Text(plain(f"  {sentence}")))
    if any(pair.verdict == "conflict" and pair.whole.enough is not None for pair in diagnosis.pairs):
        console.print(Text(diagnosis.theorem))
    if diagnosis.outcomes:
        console.print(_outcomes(diagnosis.outcomes))
    console.print(Text("Suggestions", "bold"))
    for suggestion in diagnosis.suggestions:
        console.print(Text(plain(f"  {suggestion.text} Evidence: {suggestion.evidence}")))
    console.print(Text(f"\n{HOW_TO_READ}"))


def print_replays(console: Console, info: Identity, replays: Sequence[Replay]) -> None:
    """A line a method, and for a single one a line a task."""
    taken = f"probe {info.probe.where}, with {info.method}" if info.probe else f"trained with {info.method}"
    replayed = f"{replays[0].steps} {'batches' if info.probe else 'steps'} replayed"
    if missing := replays[0].left_out:
        replayed += f", without {missing} of which rows are missing"
    console.print(Text(plain(f"{info.run_id}: {taken}; {replayed}"), "bold"))
    table = table_of(["rule, scope"], ["projected", "removed", "direction", "agreement"])
    table.add_column("worst conflict", justify="right", overflow="fold", min_width=14)
    for one in replays:
        worst = max((task for task in one.tasks if task.conflict is not None), key=lambda task: task.conflict or 0.0)
        branches = "" if one.branches == "both" else f", {one.branches} only"
        orders = ", all orders" if one.order == "mean" else ""
        table.add_row(
            f"{one.rule} @ {one.scope}{branches}{orders}",
            number(one.projected, ".0%"),
            number(one.removed, ".1%"),
            number(one.direction, "+.3f"),
            number(one.agreement, "+.3f"),
            Text(plain(f"{worst.conflict:.0%} {worst.task}")),
        )
    console.print(table)
    if len(replays) == 1:
        console.print(_tasks(replays[0]))
    console.print(
        Text(
            "projected: share of the directed pairs and blocks. direction: mean cosine of a block's update and its"
            " plain sum; what is not turned is only stretched, and Adam divides that out. agreement: mean cosine of"
            " this update and the one taken. conflict: share of the steps whose update points against the task's own"
            f" gradient.\n{NOTE}"
        )
    )


def _tasks(one: Replay) -> Table:
    table = table_of(["task"], ["weight", "norm removed", "cosine with update", "conflict"])
    for task in one.tasks:
        values = ((task.weight, ".2f"), (task.removed, ".1%"), (task.cosine, "+.2f"), (task.conflict, ".0%"))
        table.add_row(Text(plain(task.task)), *(number(value, style) for value, style in values))
    return table


def _verdicts(pairs: Sequence[Pair]) -> RenderableType:
    table = table_of(["tasks", "", "verdict"], ["cosine\n95% interval", "batch\ncosine", "negative"])
    for pair in pairs:
        for place, branch in enumerate(pair.branches):
            table.add_row(
                Text(plain(f"{pair.task_i} – {pair.task_j}") if place == 0 else ""),
                branch_cell(branch.branch),
                branch.verdict,
                f"{number(branch.cosine)}\n{interval(branch.cosine_low, branch.cosine_high)}",
                number(branch.batch_cosine),
                number(branch.conflict_rate, ".0%"),
            )
    notes = [Text(line) for line in notes_on(pairs)]
    return Group(table, *notes, Text(""))


def _outcomes(outcomes: Sequence[Outcome]) -> Table:
    title = "Gain over joint training, last validation values"
    table = table_of(["task", "metric", "method"], ["gain", "95% interval", "seeds"], title)
    for one in outcomes:
        names = (Text(plain(name)) for name in (one.task, one.metric, one.method))
        table.add_row(*names, f"{one.difference:+.3f}", interval(one.low, one.high, "+.3f"), str(len(one.seeds)))
    return table


def table_of(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A table without rows: columns of names, which may be folded, and of numbers, which may not."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for heading in names:
        table.add_column(heading, overflow="fold", min_width=17 if heading == "verdict" else None)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_data(as_json: bool) -> None:
    """What can be exported."""
    if as_json:
        listed = [{"name": name, "description": data.description, "takes": data.takes} for name, data in DATA.items()]
        print(json.dumps(listed, indent=1))
        return
    table = Table("name", "what it holds", "can be chosen by", box=SIMPLE_HEAD)
    for name, data in DATA.items():
        table.add_row(name, data.description, ", ".join(data.takes) or "–")
    Console().print(table)
