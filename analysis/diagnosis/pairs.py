"""The verdict on a pair of tasks on one branch, in words: the same on every page, in every report and command."""

from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.verdicts import Agreement, strength_word
from analysis.statistics.series import FEWEST_STEPS
from ortho_lora.record.judge import TOLD, WORTH

MANY = 10_000
"""More batches than these are as good as never."""


def verdict_sentence(branch: Agreement, shares_texts: bool) -> str:
    """The verdict with the cosine that it is on."""
    whole = branch.branch == WHOLE
    said = f"{'Whole model' if whole else f'On branch {branch.branch}'}: {branch.verdict}"
    if not branch.measured and branch.snapshot is not None:
        return f"{said}: a gradient is zero, or there is too little text to tell."
    if not branch.measured:
        return f"{said}: nothing is measured, as a gradient is zero in every step."
    if branch.cosine_low is None or branch.cosine_high is None:
        return f"{said}: {branch.steps} measured steps, and it takes {FEWEST_STEPS}."
    between = f"{branch.cosine_low:+.2f} to {branch.cosine_high:+.2f}"
    if branch.cosine is None:
        cosine = f"the cosine lies within {between}, more is not known"
    else:
        strength = f", {strength_word(branch.cosine)}" if branch.verdict in TOLD else ""
        cosine = f"cosine {branch.cosine:+.2f} (95% interval {between})"
        said += strength
    of_batches = shares_texts and branch.snapshot is None
    of = ", of the batches themselves, as the tasks draw the same texts" if of_batches else ""
    return f"{said}: {cosine}{of}{_why(branch)}."


def batch_sentence(branch: Agreement) -> str:
    """What the rule saw: cosines of single batches."""
    if branch.batch_cosine is None:
        return ""
    return (
        f"What the rule saw: a mean batch cosine of {branch.batch_cosine:+.2f}, {branch.conflict_rate or 0:.0%} of the "
        "measurements negative, where chance gives 50%."
    )


def more_words(more: float | None) -> str:
    """How many more batches of every task a verdict takes."""
    if more is None or more > MANY:
        return f"over {MANY:,} more"
    return f"about {more:,.0f} more"


def _why(branch: Agreement) -> str:
    """What the verdict is for, where it is not the interval's side of 0."""
    low, high = branch.cosine_low or 0.0, branch.cosine_high or 0.0
    if branch.verdict == "no conflict worth the name":
        return f", above -{WORTH:g}"
    if branch.verdict == "not enough data":
        chance = low > 0 or high < 0
        alone = ", on one side of 0, as one of so many pairs may be by chance" if chance else ""
        return f"{alone}; a verdict takes {more_words(branch.more_steps)} batches of every task"
    return ""
