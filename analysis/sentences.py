"""What a diagnosis says, in sentences, for terminal, report and dashboard alike. Names in them are as recorded."""

from collections.abc import Sequence

from analysis.diagnosis import WIDE, Diagnosis
from analysis.verdicts import Branch, Harm, Pair, strength_word
from analysis.words import layer_name, span

MANY = 10_000
"""More batches than these are as good as never."""
HOW_TO_READ = (
    "Intervals are for 95% and respect correlated steps; the chance of any wrong conflict or alignment in a run is "
    "meant to be 5% (Holm). With fewer than 100 steps that resemble their neighbours it is more: on noise, 8% for 40 "
    "steps correlated by 0.6, 15 to 19% for 20. Unrelated tasks conflict in about half of the measurements: a rate "
    "near 50% with a mean cosine near 0 is what noise looks like."
)


def title(diagnosis: Diagnosis) -> str:
    """Which run, method and seed, and how much of it is recorded."""
    probe = f"probe {diagnosis.probe}, " if diagnosis.probe else ""
    recorded = f"{diagnosis.steps} {'batches' if diagnosis.probe else 'steps'} recorded"
    return f"{diagnosis.run}: {probe}{diagnosis.method}, seed {diagnosis.seed}, {recorded}"


def notes_on(pairs: Sequence[Pair]) -> list[str]:
    """Why some numbers are not there, a sentence each."""
    branches = [branch for pair in pairs for branch in pair.branches]
    notes = []
    for name in sorted({branch.branch for branch in branches if branch.steps == 0}):
        why = ", as those of A are wherever B = 0, and LoRA starts there" if name == "A" else ""
        notes.append(f"Branch {name} has no cosine where the gradients are zero{why}.")
    if any(branch.verdict == "not enough data" for branch in branches):
        notes.append(f"Not enough data: fewer than 8 measured steps, or an interval wider than ±{WIDE}.")
    if any(branch.corrected is None for branch in branches):
        notes.append(
            "No corrected cosine (–): the tasks draw the same texts, or two halves of a task's own batches do not "
            "agree clearly enough to divide by."
        )
    return notes


def sentences(pair: Pair) -> list[str]:
    """Where, when, how strong, how uneven, enough to hurt, what projection removed, what remains."""
    strongest = pair.strongest
    found = []
    for branch in pair.branches:
        if branch.verdict in ("conflict", "aligned"):
            found += [_how(branch, pair.shares_texts), _where(branch)]
            found += [_when(branch)] if len(branch.windows) > 1 else []
            found += [_projected(branch, pair)] if branch.verdict == "conflict" else []
        else:
            found.append(f"On branch {branch.branch}: {branch.verdict}.")
    return [*found, *_whole(pair.whole, strongest)]


def undecided(pairs: Sequence[Pair]) -> list[str]:
    """How many more batches it takes to tell each pair without a verdict from 0, and what takes them."""
    asked = [pair for pair in pairs if pair.verdict not in ("conflict", "aligned")]
    found = [f"  {pair.task_i} – {pair.task_j}: {more}" for pair in asked if (more := more_batches(pair))]
    if not found:
        return []
    return [
        "Further batches until the interval of a mean cosine excludes 0, if the cosine is as found:",
        *found,
        "python -m ortho_lora probe RUN_DIR --batches N takes so many at the last checkpoint of a run, without "
        "training.",
        "",
    ]


def more_batches(pair: Pair) -> str:
    """How many it takes on each branch, where that is known."""
    known = [(branch.branch, branch.steps_to_exclude_zero) for branch in pair.branches]
    return ", ".join(f"{_many(steps)} on branch {branch}" for branch, steps in known if steps is not None)


def _many(steps: int) -> str:
    if steps == 0:
        return "none, but of so many intervals one may exclude it by chance"
    return f"more than {MANY:,}" if steps > MANY else f"{steps:,}"


def _how(branch: Branch, twins: bool) -> str:
    strength = branch.strength or 0.0
    corrected = (
        f"corrected for batch noise {branch.corrected:+.2f} ({interval(branch.corrected_low, branch.corrected_high)})"
        if branch.corrected is not None
        else "the tasks draw the same texts, so nothing needs correcting"
        if twins
        else "too noisy to correct, so the true one may be stronger"
    )
    return (
        f"On branch {branch.branch}: {branch.verdict}, {strength_word(strength)}: mean cosine {branch.cosine:+.2f} "
        f"({interval(branch.cosine_low, branch.cosine_high)}); {corrected}; negative in {share(branch.conflict_rate)} "
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
        return f"Projection: none; after the rule the mean cosine is {signed(branch.cosine_after)}."
    shares = [
        f"{one} in {share(often)} of the measurements, each taking {share(far)} of its norm"
        for one, often, far in (
            (pair.task_i, branch.projected_i, branch.removed_i),
            (pair.task_j, branch.projected_j, branch.removed_j),
        )
    ]
    return (
        f"Projection against each other: {'; '.join(shares)}. After it the mean cosine is "
        f"{signed(branch.cosine_after)} and {share(branch.conflict_rate_after)} of the measurements still conflict."
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
            f"{'met' if whole.enough else 'not met'} by the mean of {signed(whole.strength)}, and by the batches in "
            f"{share(whole.share_of_steps)} of the steps."
        )
    return found


def signed(value: float | None, style: str = "+.2f") -> str:
    return "–" if value is None else f"{value:{style}}"


def share(value: float | None, style: str = ".0%") -> str:
    return "–" if value is None else f"{value:{style}}"


def interval(low: float | None, high: float | None, style: str = "+.2f") -> str:
    return "–" if low is None or high is None else f"{low:{style}} to {high:{style}}"
