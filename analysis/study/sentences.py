"""What a study does and does not show, in a few plain sentences. Names in them are as recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.outcomes.boards import SINGLE, Board
from analysis.outcomes.scores import MEAN
from analysis.outcomes.units import amount, apart, range_of
from analysis.statistics.seeds import MANY, missed_by_chance
from analysis.study.advised import told_of_advice
from analysis.study.axes import headlines
from analysis.study.comparison import WHAT_IT_RESPECTS
from analysis.study.cost import PAPER_COST
from analysis.study.results import Results
from analysis.study.transfer import LEVEL

FEW_SEEDS = 5
"""Fewer are told to be few."""
FEW_TASKS = 6
"""The same of tasks whose pairs a correlation is over."""
PAPER = "the paper's table says 80%, its abstract 95%"
_PREFERRED = "ortho-lora"


def conclusions(results: Results, boards: Sequence[Board], frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Three to eight sentences, the most important first; of advice that is tried before all others.

    Args:
        results: the study.
        boards: of its conditions.
        frames: as of `findings.Findings`, by name.
    """
    found = _progress(results, frames["runs"]) + told_of_advice(results)
    gains, recovery = (headlines(frames[name], frames["over_axes"]) for name in ("gains", "recovery"))
    if main := main_method(results, gains):
        found += _main(main, results.study.baseline, gains)
        found += _best_other(main, gains)
        found += _gap(main, results.study.baseline, recovery)
    elif len(gains):
        found += _main(SINGLE, results.study.baseline, gains)
    else:
        found.append(f"No method can be compared with {results.study.baseline} yet.")
    found += _tuning(results.study.baseline, boards, frames["tried"])
    found += _cost(main, results.study.baseline, frames["costs"])
    found += _transfer(frames["transfer"]) + _correlation(frames["correlations"])
    return found + _too_narrow(gains) + _few(results, gains)


def main_method(results: Results, gains: pd.DataFrame) -> str | None:
    """The method that the study is about: advised groups, Ortho-LoRA, or the first that is compared."""
    known = [method for method in results.study.methods if method in set(gains["method"]) and method != SINGLE]
    wanted = [*([results.study.advice.groups] if results.study.advice else []), _PREFERRED]
    return next((method for method in wanted if method in known), known[0] if known else None)


def where(row: Mapping[str, Any]) -> str:
    """Like ` at rho=0.5`; empty without axes."""
    return f" at {row['condition']}" if row["condition"] else ""


def gain_in_words(row: Mapping[str, Any], over: str) -> str:
    """One row of `comparison.gains`, without a full stop."""
    value, low, high, metric = row["gain"], row["low"], row["high"], row["metric"]
    said = f"{row['method']} is {apart(value, metric)} {over}{where(row)} on {_task(row['task'])}"
    if pd.isna(low):
        return f"{said}, from {_seeds(row['seeds'])}: too few to tell it from noise"
    verdict = "not distinguishable from noise" if not row["clear"] else "better" if value > 0 else "worse"
    seeds = f"with {_seeds(row['seeds'])}" if not row["clear"] else f"by more than noise, with {_seeds(row['seeds'])}"
    return f"{said}, 95% interval {range_of(low, high, metric)}: {verdict} {seeds}"


def _progress(results: Results, runs: pd.DataFrame) -> list[str]:
    done, planned = int((runs["state"] == "finished").sum()), len(runs)
    if results.study.phase == "done" and done == planned:
        return []
    failed = int(runs["state"].isin(["failed", "lost", "unreadable"]).sum())
    lost = f", {failed} failed or are lost" if failed else ""
    tuning = "; settings are still being chosen" if results.study.phase == "tuning" else ""
    return [
        f"Not all is there: {done} of {planned} planned runs have finished{lost}{tuning}. What follows is of those."
    ]


def _main(main: str, baseline: str, gains: pd.DataFrame) -> list[str]:
    own = gains[gains["method"] == main]
    if len(own) == 1:
        return [f"{gain_in_words(own.iloc[0], baseline)}."]
    better, worse = (own[own["clear"] & (own["gain"] * sign > 0)] for sign in (1, -1))
    best = own.loc[own["gain"].idxmax()]
    return [
        f"Under {len(own)} conditions {main} is better than {baseline} by more than noise in {len(better)} and worse in"
        f" {len(worse)}. At its best, {gain_in_words(best, baseline)}."
    ]


def _best_other(main: str, gains: pd.DataFrame) -> list[str]:
    """The best rival with as many seeds, where it does better than the main method at the same place."""
    ours = gains.loc[gains["method"] == main, ["condition", "gain", "seeds"]]
    others = gains[~gains["method"].isin([main, SINGLE])].merge(ours, on="condition", suffixes=("", "_main"))
    others = others[others["seeds"] == others["seeds_main"]]  # fewer may be those that were easy
    if others.empty:
        return []
    best = others.loc[(others["gain"] - others["gain_main"]).idxmax()]
    if best["gain"] <= best["gain_main"]:
        return [f"No other method compared gained more than {main}."]
    theirs, own = (amount(best[name], best["metric"]) for name in ("gain", "gain_main"))
    between = "" if pd.isna(best["low"]) else f" ({range_of(best['low'], best['high'], best['metric'])})"
    return [f"{best['method']} gained more{where(best)}: {theirs}{between}, against {own} of {main}."]


def _gap(main: str, baseline: str, recovery: pd.DataFrame) -> list[str]:
    own = recovery[recovery["method"] == main]
    if own.empty:
        return []
    real = own.dropna(subset="recovered")
    if real.empty:
        row = own.loc[own["gap"].idxmax()]
        found = f"single is {apart(row['gap'], row['metric'])} {baseline}{where(row)}"
        if pd.isna(row["gap_low"]):
            return [f"Whether there is a gap to recover is not known: {found}, from {_seeds(row['seeds'])}."]
        between = range_of(row["gap_low"], row["gap_high"], row["metric"])
        many = f" under all {len(own)} conditions; at most" if len(own) > 1 else ""
        return [
            f"{_capital(row['in words'].split(':')[0])}{many}: {found} ({between}). So it cannot be said how much is"
            " recovered."
        ]
    row = real.loc[real["gap"].idxmax()]
    paper = f"; {PAPER}" if main == _PREFERRED else ""
    also = f" There is such a gap in {len(real)} of {len(own)} conditions." if len(own) > 1 else ""
    return [
        f"Single is {apart(row['gap'], row['metric'])} {baseline}{where(row)}: of that gap {main} recovers"
        f" {row['recovered']:.0%} (95% interval {row['low']:.0%} to {row['high']:.0%}){paper}.{also}"
    ]


def _tuning(baseline: str, boards: Sequence[Board], tried: pd.DataFrame) -> list[str]:
    """How far the settings tried for the baseline lie apart, the most of all conditions."""
    own = tried[tried["method"] == baseline].dropna(subset="score")
    spans = own.groupby("condition", sort=False)["score"].agg(lambda scores: scores.max() - scores.min())
    if own.empty or not spans.max() > 0:
        return []
    condition = spans.idxmax()
    board = next((board for board in boards if board.name == condition and board.headline), None)
    if board is None or board.headline is None:
        return []
    span = amount(spans[condition], board.metrics[board.headline]).lstrip("+")
    at = where({"condition": condition})
    return [f"The best and the worst setting tried for {baseline}{at} lie {span} apart on the selection split."]


def _cost(main: str | None, baseline: str, costs: pd.DataFrame) -> list[str]:
    own = costs[costs["method"] == main].dropna(subset="relative")
    if own.empty:
        return []
    paper = f"; the paper reports {PAPER_COST}" if main == _PREFERRED else ""
    return [f"A step of {main} took {own['relative'].median():.2f} times as long as one of {baseline}{paper}."]


def _transfer(matrix: pd.DataFrame) -> list[str]:
    if matrix.empty:
        return []
    lost, won = (matrix[matrix["clear"] & (matrix["transfer"] * sign > 0)] for sign in (-1, 1))
    worst = matrix.loc[matrix["transfer"].idxmin()]
    return [
        f"Against training alone, of {len(matrix)} tasks beside one other {len(lost)} did worse by more than noise and"
        f" {len(won)} better; {missed_by_chance(len(matrix))} in all would by chance. At worst {worst['task']} beside"
        f" {worst['beside']}{where(worst)}: {amount(worst['transfer'], worst['metric'])}."
    ]


def _correlation(correlations: pd.DataFrame) -> list[str]:
    chosen = correlations[
        (correlations["conflict"] == "cosine")
        & (correlations["harm"] == "of the pair")
        & (correlations["kind"] == "Spearman")
    ].dropna(subset="value")
    found = []
    for row in chosen.head(1).to_dict("records"):
        says = "is more than noise" if row["p"] < LEVEL else "may be none"
        few = f"; {row['tasks']} tasks are few" if row["tasks"] < FEW_TASKS else ""
        found.append(
            f"Over pairs{where(row)}, measured conflict and measured harm correlate by {row['value']:+.2f} (Spearman);"
            f" with the tasks exchanged at random 95% lie between {row['chance_low']:+.2f} and"
            f" {row['chance_high']:+.2f}, p = {row['p']:.2g}: it {says}{few}."
        )
    return found


def _too_narrow(gains: pd.DataFrame) -> list[str]:
    alone = gains[(gains["respects"] == WHAT_IT_RESPECTS[False]) & gains["low"].notna()]
    if alone.empty:
        return []
    return [
        f"{len(alone)} of {len(gains)} intervals know of the seeds alone, because runs kept no predictions or have a"
        " metric that cannot be resampled: they are too narrow."
    ]


def _few(results: Results, gains: pd.DataFrame) -> list[str]:
    seeds = len(results.study.seeds)
    found = f"{_seeds(seeds)} {'is' if seeds == 1 else 'are'} few: " if seeds < FEW_SEEDS else ""
    compared = int(gains["low"].notna().sum())
    if not found and compared < MANY:
        return []
    chance = (
        f"of {compared} intervals for 95% about {missed_by_chance(compared)} miss by chance" if compared >= MANY else ""
    )
    wide = "what is not shown may yet be there" if found else ""
    return [_capital(f"{found}{'; '.join(part for part in (wide, chance) if part)}.")]


def _task(task: str) -> str:
    return f"the {MEAN}" if task == MEAN else task


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
