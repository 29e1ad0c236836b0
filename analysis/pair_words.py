"""What is known of one pair of tasks on one branch, in words that tell conflict from noise."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.sentences import MANY
from analysis.verdicts import strength_word


def pair_sentence(row: Mapping[Any, Any]) -> str:
    """One sentence on a row of `queries.task_matrix`. Its intervals are of this pair alone, not corrected for all."""
    where = f"On branch {row['branch']} "
    cosine, low, high = row["cos_before"], row["cos_low"], row["cos_high"]
    if math.isnan(cosine):
        return f"{where}nothing is measured: a gradient is zero in every step."
    if math.isnan(low):
        return f"{where}the mean cosine is {cosine:+.2f}, of too few steps (fewer than 8) to tell it from noise."
    interval = f"95% interval {low:+.2f} to {high:+.2f}"
    if low <= 0 <= high:
        said = f"{where}nothing is told from noise: mean cosine {cosine:+.2f}, {interval} includes 0"
    else:
        strength = cosine if math.isnan(row["corrected"]) else row["corrected"]
        does = "pull against each other" if cosine < 0 else "agree"
        clear = "below" if cosine < 0 else "above"
        said = f"{where}they {does}, {_adverb(strength)}: mean cosine {cosine:+.2f}, {interval} is {clear} 0"
    if row["shares_texts"]:
        return f"{said}; they draw the same texts and so share their noise: no correction is needed."
    if math.isnan(row["corrected"]):
        return f"{said}; the signal is too weak to correct it for batch noise."
    return (
        f"{said}; without batch noise it is {row['corrected']:+.2f} "
        f"({row['corrected_low']:+.2f} to {row['corrected_high']:+.2f})."
    )


def more_steps(row: Mapping[Any, Any]) -> str:
    """How many more recorded steps the interval of a row of `queries.batches_needed` takes to exclude 0."""
    wanted = row["to_exclude_zero"]
    if math.isnan(wanted):
        return "unknown"
    if wanted == 0:
        return "clear"
    return f"{wanted:,.0f} more" if wanted < MANY else f"over {MANY:,}"


def _adverb(cosine: float) -> str:
    return {"weak": "weakly", "moderate": "moderately", "strong": "strongly"}[strength_word(cosine)]
