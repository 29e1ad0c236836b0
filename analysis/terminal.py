"""Diagnoses and replays as text for a terminal. Names come from files of others: they are never read as markup."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.diagnosis import WIDE, Diagnosis
from analysis.outcomes import Outcome
from analysis.replay import NOTE, Replay
from analysis.verdicts import Branch, Harm, Pair, strength_word
from analysis.words import layer_name, span


def plain(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Verdicts first, then each pair that has one, outcomes, suggestions, and how to read it."""
    head = f"{diagnosis.run}: {diagnosis.method}, seed {diagnosis.seed}, {diagnosis.steps} steps recorded"
    console.print(Text(plain(head), "bold"))
    console.print(Text(plain(diagnosis.summary)))
    console.print(_verdicts(diagnosis.pairs))
    for pair in diagnosis.pairs:
        if pair.verdict in ("conflict", "aligned"):
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
    console.print(
        Text(
            "\nIntervals are for 95% and respect correlated steps; the chance of any wrong conflict or alignment in a "
            "run is meant to be 5% (Holm). With fewer than 100 steps that resemble their neighbours it is more: on "
            "noise, 8% for 40 steps correlated by 0.6, 15 to 19% for 20. Unrelated tasks conflict in about half of "
            "the measurements: a rate near 50% with a mean cosine near 0 is what noise looks like."
        )
    )


def sentences(pair: Pair) -> list[str]:
    """Where, when, how strong, how uneven, enough to hurt, what projection removed, what remains."""
    strongest = pair.strongest
    found = []
    for branch in pair.branches:
        if branch.verdict in ("conflict", "aligned"):
            found += [_how(branch, pair.shares_texts), _where(branch), _when(branch)]
            found += [_projected(branch, pair)] if branch.verdict == "conflict" else []
        else:
            found.append(f"On branch {branch.branch}: {branch.verdict}.")
    return [*found, *_whole(pair.whole, strongest)]


def print_replays(console: Console, run: str, taken: str, replays: Sequence[Replay]) -> None:
    """A line a method, and for a single one a line a task."""
    console.print(Text(plain(f"{run}: trained with {taken}; {replays[0].steps} steps replayed"), "bold"))
    table = Table(box=SIMPLE_HEAD)
    table.add_column("rule, scope", overflow="fold")
    for heading in ("projected", "norm removed", "agreement", "worst conflict"):
        table.add_column(heading, justify="right")
    for one in replays:
        worst = max((task for task in one.tasks if task.conflict is not None), key=lambda task: task.conflict or 0.0)
        branches = "" if one.branches == "both" else f", {one.branches} only"
        orders = ", all orders" if one.order == "mean" else ""
        table.add_row(
            f"{one.rule} @ {one.scope}{branches}{orders}",
            _share(one.projected),
            _share(one.removed, ".1%"),
            _signed(one.agreement, "+.3f"),
            Text(plain(f"{worst.conflict:.0%} {worst.task}")),
        )
    console.print(table)
    if len(replays) == 1:
        console.print(_tasks(replays[0]))
    console.print(
        Text(
            "projected: share of the directed pairs and blocks. agreement: mean cosine of this update and the one "
            f"taken. conflict: share of the steps whose update points against the task's own gradient.\n{NOTE}"
        )
    )


def _tasks(one: Replay) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for heading in ("weight", "norm removed", "cosine with update", "conflict"):
        table.add_column(heading, justify="right")
    for task in one.tasks:
        cells = (_signed(task.weight, ".2f"), _share(task.removed, ".1%"), _signed(task.cosine), _share(task.conflict))
        table.add_row(Text(plain(task.task)), *cells)
    return table


def _verdicts(pairs: Sequence[Pair]) -> RenderableType:
    corrected = any(branch.corrected is not None for pair in pairs for branch in pair.branches)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("tasks", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("verdict", min_width=13)
    for heading in ("cosine\n95% interval", *(["corrected\n95% interval"] if corrected else []), "negative", "n_eff"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        for number, branch in enumerate(pair.branches):
            cells = [_with_range(branch.cosine, branch.cosine_low, branch.cosine_high)]
            if corrected:
                cells.append(_with_range(branch.corrected, branch.corrected_low, branch.corrected_high))
            effective = "–" if branch.effective_steps is None else f"{branch.effective_steps:.0f}"
            table.add_row(
                Text(plain(f"{pair.task_i} – {pair.task_j}") if number == 0 else ""),
                branch.branch,
                branch.verdict,
                *cells,
                _share(branch.conflict_rate),
                f"{effective}\nof {branch.steps}",
            )
    short = [branch for pair in pairs for branch in pair.branches if branch.verdict == "not enough data"]
    notes = []
    if short:
        notes.append(Text(f"Not enough data: fewer than 8 measured steps, or an interval wider than ±{WIDE}."))
    if any(branch.corrected is None for pair in pairs for branch in pair.branches):
        notes.append(
            Text(
                "No corrected cosine (–): the tasks draw the same texts, or two halves of a task's own batches do not "
                "agree clearly enough to divide by."
            )
        )
    return Group(table, *notes, Text(""))


def _how(branch: Branch, twins: bool) -> str:
    strength = branch.strength or 0.0
    corrected = (
        f"corrected for batch noise {branch.corrected:+.2f} ({_range(branch.corrected_low, branch.corrected_high)})"
        if branch.corrected is not None
        else "the tasks draw the same texts, so nothing needs correcting"
        if twins
        else "too noisy to correct, so the true one may be stronger"
    )
    return (
        f"On branch {branch.branch}: {branch.verdict}, {strength_word(strength)}: mean cosine {branch.cosine:+.2f} "
        f"({_range(branch.cosine_low, branch.cosine_high)}); {corrected}; negative in {_share(branch.conflict_rate)} "
        f"of the measurements, where chance gives 50%; {branch.steps} steps, worth {branch.effective_steps:.0f} "
        "independent ones."
    )


def _where(branch: Branch) -> str:
    if not branch.blocks_clear:
        return f"Where: in none of its {branch.blocks} blocks clear by itself."
    listed = ", ".join(f"layer {layer_name(p.layer)} {p.module} {p.cosine:+.2f}" for p in branch.places)
    return f"Where: clear in {branch.blocks_clear} of {branch.blocks} blocks; strongest: {listed}."


def _when(branch: Branch) -> str:
    if branch.since is None or branch.until is None:
        return "When: in no window of steps clear by itself, only over all of them."
    whole = branch.since == branch.windows[0].first and branch.until == branch.windows[-1].last
    last = " Windows before or after are not clear by themselves, which need not mean that they are free of it."
    return f"When: clear by window within {span(branch.since, branch.until)}.{'' if whole else last}"


def _projected(branch: Branch, pair: Pair) -> str:
    if not branch.projected_i and not branch.projected_j:
        return f"Projection: none; after the rule the mean cosine is {_signed(branch.cosine_after)}."
    shares = [
        f"{one} in {_share(often)} of the measurements, each taking {_share(far)} of its norm"
        for one, often, far in (
            (pair.task_i, branch.projected_i, branch.removed_i),
            (pair.task_j, branch.projected_j, branch.removed_j),
        )
    ]
    return (
        f"Projection against each other: {'; '.join(shares)}. After it the mean cosine is "
        f"{_signed(branch.cosine_after)} and {_share(branch.conflict_rate_after)} of the measurements still conflict."
    )


def _whole(whole: Harm, strongest: Branch) -> list[str]:
    if whole.norm_ratio is None or whole.magnitude_similarity is None:
        return []
    of = "without batch noise" if whole.from_corrected else "of batches"
    found = [
        f"Magnitudes {of}, all blocks together: norm ratio {whole.norm_ratio:.2f}, similarity "
        f"{whole.magnitude_similarity:.2f} (1: equal)."
    ]
    if strongest.verdict == "conflict" and whole.enough is not None:
        found.append(
            f"PCGrad's own condition (cosine at most {-whole.magnitude_similarity:.2f}) is "
            f"{'met' if whole.enough else 'not met'} by the mean of {_signed(whole.strength)}, and by the batches in "
            f"{_share(whole.share_of_steps)} of the steps."
        )
    return found


def _outcomes(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Gain over joint training, last validation values", title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("metric")
    table.add_column("method")
    for heading in ("gain", "95% interval", "seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        names = (Text(plain(name)) for name in (one.task, one.metric, one.method))
        table.add_row(*names, f"{one.difference:+.3f}", _range(one.low, one.high, "+.3f"), str(len(one.seeds)))
    return table


def _signed(value: float | None, style: str = "+.2f") -> str:
    return "–" if value is None else f"{value:{style}}"


def _share(value: float | None, style: str = ".0%") -> str:
    return "–" if value is None else f"{value:{style}}"


def _with_range(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}\n{_range(low, high)}"


def _range(low: float | None, high: float | None, style: str = "+.2f") -> str:
    return "–" if low is None or high is None else f"{low:{style}} {high:{style}}"
