"""What a diagnosis says, in sentences, for terminal, report and dashboard alike. Names in them are as recorded."""

from collections.abc import Sequence

from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.diagnose import Diagnosis
from analysis.diagnosis.pairs import batch_sentence, more_words, verdict_sentence
from analysis.diagnosis.verdicts import Branch, Harm, Pair
from analysis.library.names import branch_name, branch_title, branches_of, number, snapshots_at, span
from ortho_lora.record.judge import TOLD, WORTH
from ortho_lora.record.layers import layer_name

HOW_TO_READ = (
    "A verdict is on the cosine of two tasks' mean gradients, without the noise of batches: that of the run's "
    "snapshots, which multiply gradients of different texts only; or in a run without one that of all steps, where "
    "half batches tell the noise. "
    f"Conflict: below 0 by more than chance, and it may be below -{WORTH:g}. Aligned: above 0 by more than chance. No "
    f"conflict worth the name: its 95% interval excludes -{WORTH:g}. Not enough data: none of these. Of the pairs told "
    "at most 5% are told by chance (Benjamini and Hochberg), and where nothing conflicts, any in at most 5% of runs. "
    "Batch cosines are what the rule saw: noise pulls them to 0, and of unrelated tasks half are negative."
)


def title(diagnosis: Diagnosis) -> str:
    """Which run, method and seed, and what the verdicts rest on."""
    of = f"probe {diagnosis.probe}, " if diagnosis.probe else ""
    rests = snapshots_at(diagnosis.snapshots) if diagnosis.snapshots else f"{diagnosis.steps} steps"
    return f"{diagnosis.run}: {of}{diagnosis.method}, seed {diagnosis.seed}; verdicts from {rests}"


def notes_on(pairs: Sequence[Pair]) -> list[str]:
    """Why some numbers are not there, a sentence each."""
    branches = [branch for pair in pairs for branch in pair.branches]
    notes = []
    for name in branches_of(branch.branch for branch in branches if not branch.measured):
        why = ", as those of A are wherever B = 0, and LoRA starts there" if name == "A" else ""
        notes.append(f"{branch_title(name)} has no cosine where the gradients are zero{why}.")
    if any(branch.cosine is None and branch.measured for branch in branches):
        notes.append(
            "No cosine (–): a task's gradient is not told clearly enough from noise; the interval is all that is known."
        )
    return notes


def sentences(pair: Pair) -> list[str]:
    """Where, when, how strong, how uneven, enough to hurt, what projection removed, what remains."""
    found = []
    for branch in pair.branches:
        found.append(verdict_sentence(branch, pair.shares_texts))
        if branch.verdict in TOLD:
            found += [batch_sentence(branch), *_of_branch(branch, pair)]
    return [*filter(None, found), *_whole(pair.whole, pair.verdict == "conflict")]


def evidence(pair: Pair) -> list[str]:
    """Of a pair in conflict or aligned where, when and whether it is enough to hurt: what no figure beside it shows."""
    found = [
        sentence.replace(":", f" ({branch_name(branch.branch)}):", 1)
        for branch in pair.branches
        if branch.verdict in TOLD
        for sentence in filter(None, _where_and_when(branch, 1))
    ]
    return [*found, *_whole(pair.whole, pair.verdict == "conflict")]


def _of_branch(branch: Branch, pair: Pair) -> list[str]:
    found = _where_and_when(branch, len(branch.places))
    found += [_projected(branch, pair)] if branch.verdict == "conflict" and branch.branch != WHOLE else []
    return found


def _where_and_when(branch: Branch, places: int) -> list[str]:
    return [_where(branch, places), *([_when(branch)] if len(branch.windows) > 1 else [])]


def undecided(pairs: Sequence[Pair]) -> list[str]:
    """How many more batches it takes until each pair without one has a verdict, and what takes them."""
    found = [f"  {pair.task_i} – {pair.task_j}: {more}" for pair in pairs if (more := more_batches(pair))]
    if not found:
        return []
    return [
        "Batches of every task until a verdict, if they go on like these:",
        *found,
        "python -m ortho_lora probe RUN_DIR --batches N takes so many at the last checkpoint of a run, without "
        "training.",
        "",
    ]


def more_batches(pair: Pair) -> str:
    """How many it takes on the whole model, or without a snapshot on each branch, if that has no verdict."""
    short = [branch for branch in pair.branches if branch.verdict == "not enough data" and branch.measured]
    if pair.branches[0].branch == WHOLE:
        return ", ".join(more_words(branch.more_steps) for branch in short if branch.branch == WHOLE)
    return ", ".join(f"{more_words(branch.more_steps)} on branch {branch.branch}" for branch in short)


def _where(branch: Branch, places: int) -> str:
    if branch.branch == WHOLE:
        return ""
    if not branch.blocks_clear:
        return f"Where: in none of its {branch.blocks} blocks clear by itself."
    listed = ", ".join(f"layer {layer_name(p.layer)} {p.module} {number(p.cosine)}" for p in branch.places[:places])
    return f"Where: clear in {branch.blocks_clear} of {branch.blocks} blocks; strongest: {listed}."


def _when(branch: Branch) -> str:
    if branch.snapshot is not None:
        return _since(branch)
    if branch.since is None or branch.until is None:
        return "When: in no window of steps clear by itself, only over all of them."
    whole = branch.since == branch.windows[0].first and branch.until == branch.windows[-1].last
    last = " Windows before or after are not clear by themselves, which need not mean that they are free of it."
    return f"When: clear by window within {span(branch.since, branch.until)}.{'' if whole else last}"


def _since(branch: Branch) -> str:
    """At which snapshots the verdict stands."""
    if branch.since is None:
        return "When: at no snapshot clear by itself."
    before = [window.first for window in branch.windows if window.first < branch.since]
    first = f", and not at step {before[-1]}" if before else ", the first that was looked at"
    until = "" if branch.until == branch.windows[-1].first else f", up to step {branch.until}"
    return f"When: told at step {branch.since}{first}{until}."


def _projected(branch: Branch, pair: Pair) -> str:
    if not branch.projected_i and not branch.projected_j:
        return f"Projection: none; after the rule the mean batch cosine is {number(branch.cosine_after)}."
    shares = [
        f"{one} in {number(often, '.0%')} of the measurements, each taking {number(far, '.0%')} of its norm"
        for one, often, far in (
            (pair.task_i, branch.projected_i, branch.removed_i),
            (pair.task_j, branch.projected_j, branch.removed_j),
        )
    ]
    return (
        f"Projection against each other: {'; '.join(shares)}. After it the mean batch cosine is "
        f"{number(branch.cosine_after)} and {number(branch.conflict_rate_after, '.0%')} of the measurements are still"
        " negative."
    )


def _whole(whole: Harm, conflict: bool) -> list[str]:
    if whole.norm_ratio is None or whole.magnitude_similarity is None:
        return []
    of = "without batch noise" if whole.from_signal else "of batches"
    found = [
        f"Magnitudes {of}, all blocks together: norm ratio {whole.norm_ratio:.2f}, similarity "
        f"{whole.magnitude_similarity:.2f} (1: equal)."
    ]
    if conflict and whole.enough is not None:
        found.append(
            f"PCGrad's own condition (cosine at most {-whole.magnitude_similarity:.2f}) is "
            f"{'met' if whole.enough else 'not met'} by the cosine of {number(whole.cosine)}, and by the batches in "
            f"{number(whole.share_of_steps, '.0%')} of the steps."
        )
    return found
