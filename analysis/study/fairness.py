"""Whether methods had the same chance: what was tried for each, how it scored, and what was chosen."""

from collections.abc import Sequence

import pandas as pd

from analysis.outcomes.boards import name_of
from analysis.study.results import Results, settings_text
from ortho_lora.record.study import SELECTION_SPLIT, Cell, Settings

RULE = (
    f"Settings are chosen by the mean metric on the split `{SELECTION_SPLIT}`, over the seeds that all candidates"
    " finished; results are told of the rest of the validation data."
)


def tried(results: Results) -> pd.DataFrame:
    """Every candidate of every method on all tasks.

    Returns:
        condition, method, settings (what was tuned; empty: nothing); score on the selection split, null where it was
        not compared, for want of finished runs, or where there was nothing to choose; chosen; edge: it is chosen, and
        the grid ends there, so that a better one may lie beyond.
    """
    rows = []
    for condition in results.conditions:
        for method in results.methods(condition):
            cell = Cell(method=method, condition=dict(condition))
            candidates, chosen = results.candidates(cell), results.chosen(cell)
            scores = next((choice.scores for choice in results.study.choices if choice.cell.key == cell.key), ())
            for place, candidate in enumerate(candidates):
                is_chosen = candidate == chosen
                rows.append(
                    {
                        "condition": name_of(condition),
                        "method": method,
                        "settings": settings_text(candidate),
                        "score": scores[place] if place < len(scores) else None,
                        "chosen": is_chosen,
                        "edge": is_chosen and bool(at_edge(candidate, candidates)),
                    }
                )
    columns = ["condition", "method", "settings", "score", "chosen", "edge"]
    return pd.DataFrame(rows, columns=columns).astype({"score": "float64"})


def warnings(results: Results, frame: pd.DataFrame) -> list[str]:
    """What makes the comparison less than fair, a sentence each.

    Args:
        results: the study.
        frame: of `tried`.
    """
    found = []
    budgets = results.study.candidates
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in budgets.items())
        found.append(f"Tuning budgets differ, in settings tried: {listed}. More tries find more by chance alone.")
    found += [
        f"Settings of {_where(choice.cell)} were chosen on {_listed(choice.seeds)} of {_listed(tuning)}: not every"
        " candidate finished the others."
        for choice in results.study.choices
        if choice.seeds is not None and choice.seeds != (tuning := results.study.tuning_seeds)
    ]
    if not results.active:
        found += _other_seeds(results)
    for row in frame[frame["edge"]].to_dict("records"):
        where = f" at {row['condition']}" if row["condition"] else ""
        found.append(
            f"{row['method']}{where} did best at the edge of its grid ({row['settings']}): a better setting may lie"
            " beyond."
        )
    return found


def _other_seeds(results: Results) -> list[str]:
    """Of each condition under which methods finished other seeds."""
    found = []
    for condition in results.conditions:
        seeds = {method: tuple(sorted(results.finished(method, condition))) for method in results.methods(condition)}
        seeds = {method: own for method, own in seeds.items() if own}
        if len(set(seeds.values())) > 1:
            at = f" at {name_of(condition)}" if condition else ""
            listed = "; ".join(f"{method} {', '.join(map(str, own))}" for method, own in seeds.items())
            found.append(
                f"Methods finished with different seeds{at} ({listed}): compare their gains, which are paired by seed,"
                " not their means."
            )
    return found


def _where(cell: Cell) -> str:
    condition = name_of(tuple(cell.condition.items()))
    return f"{cell.method} at {condition}" if condition else cell.method


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def at_edge(chosen: Settings, candidates: Sequence[Settings]) -> tuple[str, ...]:
    """Settings of numbers of which the chosen value is the least or the greatest of at least two tried."""
    found = []
    for name, value in chosen.items():
        values = {other[name] for other in candidates if isinstance(other.get(name), int | float)}
        if len(values) > 1 and value in (min(values), max(values)):
            found.append(name)
    return tuple(found)
