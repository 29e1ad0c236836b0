"""What came of the advice that a study tries, beside what a snapshot had promised: by summed validation loss."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.library.names import number
from analysis.library.runs import SPLIT
from analysis.outcomes.boards import SINGLE, Condition, name_of
from analysis.reading.cache import remembered
from analysis.reading.database import ask
from analysis.statistics.seeds import Estimate, Paired, estimate, mean_of
from analysis.study.results import Results
from ortho_lora.record.schema import groups_text
from ortho_lora.record.study import Advice, Settings

WEIGHTS = "advised-weights"
NOTE = (
    "Predicted: mnat a step of the tasks' summed validation loss, less that with one adapter; on other texts: of what"
    " is chosen on half of them and judged on the others. At the end: nats of the same sum after training, less"
    " joint's, with the 95% interval over seeds. Below 0 is better; *: the interval excludes 0."
)


def advice_table(results: Results) -> pd.DataFrame:
    """Each method that is compared with joint: what was predicted of it, and what came.

    Returns:
        condition, method; settings: its groups or weights, in words; predicted, predicted_low, predicted_high,
        elsewhere: nats a step, null where nothing was predicted; loss, low, high: nats of the summed validation loss at
        the end less the baseline's, paired by seed, with the interval of `estimate`; clear; seeds. No rows of a study
        that tries no advice.
    """
    rows = []
    advice = results.study.advice
    for condition in results.conditions if advice else ():
        losses = _losses(results, condition)
        for method in losses:
            found = _against(losses, [method], [results.study.baseline])
            if found is None or method == results.study.baseline:
                continue
            promised = advice.predicted.get(method) if advice else None
            row: dict[str, object] = {"condition": name_of(condition), "method": method}
            row |= {"settings": _what(results.study.file, method)}
            row |= {new: getattr(promised, old, None) for new, old in _PROMISED.items()}
            row |= {"loss": found.value, "low": found.low, "high": found.high}
            rows.append(row | {"clear": found.clear, "seeds": len(found.seeds)})
    numbers = [*_PROMISED, "loss", "low", "high"]
    frame = pd.DataFrame(rows, columns=["condition", "method", "settings", *numbers, "clear", "seeds"])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def told_of_advice(results: Results) -> list[str]:
    """What was advised and what came of it: sentences on the groups, on the random ones, and on the weights."""
    advice = results.study.advice
    if advice is None:
        return []
    found = []
    for condition in results.conditions:
        at = f" at {name_of(condition)}" if condition else ""
        losses = _losses(results, condition)
        if known := list(_sentences(advice, results, losses)):
            found += [f"Advice of run {advice.run}{at}: {known[0]}", *known[1:]]
    return found


def _sentences(advice: Advice, results: Results, losses: Mapping[str, Paired]) -> Iterator[str]:
    baseline, file = results.study.baseline, results.study.file
    own = [advice.advised, *([advice.groups] if advice.groups else [])]
    for place, method in enumerate(dict.fromkeys(own)):
        named = f"{method} ({what})" if (what := _what(file, method)) else method
        if place:
            which = f"Tried beside it: {named}"
        elif method in (baseline, SINGLE):
            which = f"one adapter for {'all tasks' if method == baseline else 'each task'} ({method})"
        else:
            which = f"{advice.adapters} adapters, {named}"
        if method == baseline:
            yield f"{which}; no split was promised to be worth another."
            continue
        parts = [
            _compared(losses, method, others, word)
            for others, word in (
                ([baseline], baseline),
                (list(advice.random) if method == advice.groups else [], "random groups of the same sizes"),
                ([SINGLE] if method != SINGLE else [], SINGLE),
            )
        ]
        if said := [part for part in parts if part]:
            yield f"{which}{_promised(advice, method)}. Its summed validation loss ended {'; '.join(said)}."
    if said_of_weights := _compared(losses, WEIGHTS, [baseline], baseline):
        yield f"With the advised weights{_promised(advice, WEIGHTS)}, it ended {said_of_weights}."


def _promised(advice: Advice, method: str) -> str:
    if (of := advice.predicted.get(method)) is None:
        return ""
    elsewhere = f" (on other texts {1e3 * of.elsewhere:+.3g})" if of.elsewhere is not None else ""
    return f", promised {1e3 * of.gain:+.3g} mnat a step against one adapter{elsewhere}"


def _compared(losses: Mapping[str, Paired], method: str, others: Sequence[str], word: str) -> str:
    """Like `0.12 nats below joint (-0.2 to -0.04, 3 seeds: better)`; empty: not known."""
    found = _against(losses, [method], others)
    if found is None:
        return ""
    side = "below" if found.value < 0 else "above"
    said = f"{abs(found.value):.3g} nats {side} {word}"
    if found.low is None or found.high is None:
        return f"{said} ({_seeds(found)}: too few to tell it from noise)"
    verdict = "better" if found.value < 0 else "worse"
    ends = f"{found.low:+.3g} to {found.high:+.3g}, {_seeds(found)}"
    return f"{said} ({ends}: {verdict if found.clear else 'not distinguishable from noise'})"


def _against(losses: Mapping[str, Paired], ours: Sequence[str], theirs: Sequence[str]) -> Estimate | None:
    """How much more loss some methods end with than others, means of each on the seeds of all; None: none is shared."""
    known = [losses[method] for method in theirs if method in losses]
    if not known or not all(method in losses for method in ours):
        return None
    own = [losses[method] for method in ours]
    seeds = set.intersection(*(set(one.seeds) for one in [*own, *known]))
    if not seeds:
        return None
    one, other = (mean_of([of.at(seeds) for of in side]) for side in (own, known))
    return estimate(one.minus(other))


def _losses(results: Results, condition: Condition) -> dict[str, Paired]:
    """By method, of each seed the validation loss at the end, summed over all tasks; seeds in order."""
    found = {}
    for method in results.methods(condition):
        runs = sorted(results.finished(method, condition).items())
        values = {seed: _loss(run.path, len(run.info.tasks)) for seed, run in runs if run.info}
        known = {seed: value for seed, value in values.items() if value is not None and np.isfinite(value)}
        if known:
            found[method] = Paired(tuple(known), np.array(list(known.values())), None)
    return found


@remembered("manifest.json")
def _loss(run: Path, tasks: int) -> float | None:
    sql = """
        SELECT sum(loss) AS loss, count(*) AS tasks FROM (
            SELECT arg_max(value, step) AS loss FROM metrics WHERE split = $split AND metric = 'loss' GROUP BY task
        )
    """
    row = ask(run, ["metrics"], sql, parameters={"split": SPLIT}).iloc[0]
    return float(row["loss"]) if row["tasks"] == tasks else None


def _what(file: Settings, method: str) -> str:
    """Groups or weights of a method, in words; empty: neither."""
    settings: Settings = {}
    for entry in file.get("methods", ()):
        settings = entry.get(method, settings) if isinstance(entry, dict) else settings
    if groups := settings.get("groups"):
        return groups if isinstance(groups, str) else groups_text(groups)
    return ", ".join(f"{task} {number(weight, '.3g')}" for task, weight in settings.get("loss_weights", {}).items())


def _seeds(found: Estimate) -> str:
    return f"{len(found.seeds)} seed{'s' * (len(found.seeds) > 1)}"


_PROMISED = {"predicted": "gain", "predicted_low": "low", "predicted_high": "high", "elsewhere": "elsewhere"}
