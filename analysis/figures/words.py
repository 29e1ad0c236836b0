"""Sentences that say what a frame of `analysis.conflict.queries` shows, for whoever cannot see its figure."""

import pandas as pd

from analysis.conflict.snapshots import WHOLE
from analysis.library.names import method_name, span
from analysis.transfer.words import described
from ortho_lora.record.judge import MARKS
from ortho_lora.record.layers import layer_name


def what_remains(frame: pd.DataFrame) -> str:
    """How many conflicts of `queries.task_matrix` are left after the rule, and where most."""
    before, after = (
        (frame[f"rate_{when}"] * frame[count]).sum() / max(frame[count].sum(), 1)
        for when, count in (("before", "measured"), ("after", "measured_after"))
    )
    if before == after:
        said = f"Of the measured cosines {before:.1%} are negative, and stay so."
    else:
        said = f"Of the measured cosines {before:.1%} are negative before projection and {after:.1%} after it."
    if after == 0 or frame["rate_after"].isna().all():
        return said
    most = frame.loc[frame["rate_after"].idxmax()]
    where = f"{most['task_i']} and {most['task_j']} on branch {most['branch']}"
    return f"{said} Most remain between {where}: {most['rate_after']:.1%}, mean batch cosine {most['cos_after']:+.2f}."


def describe(frame: pd.DataFrame) -> str:
    """One sentence on a frame of `conflict.queries`: its strongest conflict, or what else its figure is about."""
    columns = set(frame.columns)
    for needed, sentence in _SENTENCES:
        if needed <= columns:
            return sentence(frame) if len(frame) else "Nothing is recorded yet."
    raise ValueError(f"no sentence for a frame with the columns {sorted(columns)}; expected one of conflict.queries.")


def _pairs(frame: pd.DataFrame) -> str:
    whole = frame[frame["branch"] == WHOLE]
    found = whole if len(whole) else frame[frame["steps"] > 0]
    if found.empty:
        return "No pair of tasks is measured yet."
    counts = found["verdict"].value_counts()
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MARKS if verdict in counts)
    conflicts = found[found["verdict"] == "conflict"]
    said = f"Verdicts on pairs{'' if len(whole) else ' and branches'}: {told}."
    if conflicts.empty:
        return said
    low = conflicts.loc[conflicts["cosine"].fillna(conflicts["cosine_high"]).idxmin()]
    cosine = f"at most {low['cosine_high']:+.2f}" if pd.isna(low["cosine"]) else f"{low['cosine']:+.2f}"
    on = "" if len(whole) else f" on branch {low['branch']}"
    pair = f"{low['task_i']} and {low['task_j']}{on}"
    return f"{said} Strongest conflict: {pair}, cosine {cosine}."


def _lowest(frame: pd.DataFrame) -> str:
    """The lowest cosine before projection, and where it is."""
    found = frame.dropna(subset="cos_before")
    if found.empty:
        return "No cosine is measured yet."
    low = found.loc[found["cos_before"].idxmin()].to_dict()
    where = [f"layer {layer_name(low['layer'])}", *([low["module"]] if "module" in low else [])]
    where += [f"branch {low['branch']}", *([span(low["step"], low["step_end"])] if "step" in low else [])]
    pair = f" of {low['task_i']} and {low['task_j']}" if "task_i" in low else ""
    return f"Lowest cosine before projection: {low['cos_before']:+.2f}{pair}, at {', '.join(where)}."


def _snapshot_cells(frame: pd.DataFrame) -> str:
    """The lowest cosine of a snapshot, and where it is."""
    known = frame.dropna(subset="cosine")
    if known.empty:
        return "No cosine is clear of noise; only intervals are known."
    low = known.loc[known["cosine"].idxmin()].to_dict()
    where = [f"layer {layer_name(low['layer'])}", *([low["module"]] if "module" in low else [])]
    where += [f"branch {low['branch']}", *([f"step {low['step']}"] if "step" in low else [])]
    return f"Lowest cosine: {low['cosine']:+.2f}, at {', '.join(where)}; {frame['clear'].sum()} cells have a verdict."


def _windows(frame: pd.DataFrame) -> str:
    known = frame.dropna(subset="cosine_low")
    between = f" lies within {known['cosine_low'].min():+.2f} to {known['cosine_high'].max():+.2f}"
    return f"{len(frame)} windows; the cosine{between if len(known) else ' is not known'}."


def _directed(frame: pd.DataFrame) -> str:
    found = frame.dropna(subset="frequency")
    if found.empty:
        return "No projection is measured yet."
    top = found.loc[found["frequency"].idxmax()]
    if top["frequency"] == 0:
        return "No gradient was projected."
    return (
        f"Most often projected: {top['task']} against {top['against']} on branch {top['branch']}, "
        f"in {top['frequency']:.0%} of its measurements."
    )


def _by_branch(frame: pd.DataFrame) -> str:
    means = frame.groupby("branch")["frequency"].mean().dropna()
    if means.empty:
        return "No projection is measured yet."
    listed = " and ".join(f"{mean:.0%} on branch {branch}" for branch, mean in means.items())
    return f"On average {listed} of the directed pairs are projected."


def _one_pair(frame: pd.DataFrame) -> str:
    means = frame.groupby("branch")[["cos_before", "cos_after"]].mean().dropna(subset="cos_before")
    if means.empty:
        return "The pair is not measured yet."
    listed = " and ".join(
        f"{row.cos_before:+.2f} before, {row.cos_after:+.2f} after on branch {row.Index}" for row in means.itertuples()
    )
    return f"Mean batch cosine {listed}."


def _weights(frame: pd.DataFrame) -> str:
    means = frame.groupby("task")["weight"].mean()
    return (
        f"Mean effective weights lie between {means.min():.2f} ({means.idxmin()}) and "
        f"{means.max():.2f} ({means.idxmax()}); the plain sum has 1."
    )


def _metrics(frame: pd.DataFrame) -> str:
    known = frame[frame["metric"] != "loss"]
    return _last(known.assign(of=known["task"] + " " + known["metric"], series=known["run"] + ", " + known["split"]))


def _losses(frame: pd.DataFrame) -> str:
    return _last(frame.assign(of=frame["task"], series=frame["run"], value=frame["loss"]))


def _curves(frame: pd.DataFrame) -> str:
    return _last(frame.assign(of=frame["task"], value=frame["smoothed" if "smoothed" in frame else "value"]))


def _last(frame: pd.DataFrame) -> str:
    """The last value of each series, and what it is of."""
    last = frame.dropna(subset="value").drop_duplicates(["series", "of"], keep="last")
    listed = [f"{row['of']} {row['value']:.2f} ({row['series']})" for row in last.to_dict("records")]
    return f"Last values: {'; '.join(listed)}."


def _replayed(frame: pd.DataFrame) -> str:
    once = frame.drop_duplicates(["rule", "scope", "branches"])
    shares = [
        f"{method_name(row['rule'], row['scope'], row['branches'])} {row['projected']:.0%}"
        for row in once.dropna(subset="projected").to_dict("records")
    ]
    return f"Directed pairs that each method would have projected: {'; '.join(shares)}."


# The first whose columns are there.
_SENTENCES = [
    ({"source", "nats"}, described),
    ({"series", "value"}, _curves),
    ({"agreement", "projected"}, _replayed),
    ({"cosine_low", "snapshot"}, _pairs),
    ({"cosine", "clear", "low"}, _snapshot_cells),
    ({"cosine_low", "step"}, _windows),
    ({"layer", "cos_before"}, _lowest),
    ({"against"}, _directed),
    ({"frequency"}, _by_branch),
    ({"cos_before"}, _one_pair),
    ({"weight"}, _weights),
    ({"metric"}, _metrics),
    ({"loss"}, _losses),
]
