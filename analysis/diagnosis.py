"""A verdict on every pair of tasks of a run: do they conflict, where, since when, how much, and is it more than noise.

How it is decided. For each pair and branch the mean cosine, over all steps and by window, is tested against 0 with an
error that respects correlated steps (`analysis.statistics`). Holm's procedure over all pairs and branches holds the
chance of ANY wrong `conflict` or `aligned` in a run at 5%; blocks and windows of steps are named after a correction of
their own. Strength is told by the cosine corrected for batch noise where it is known, else by the raw one, which noise
pulls to zero.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.advice import Suggestion, advise
from analysis.agreement import (
    PAIR,
    BySteps,
    agreement,
    block_cosines,
    by_window,
    model_steps,
    needed,
    pair_steps,
    shares_texts,
)
from analysis.database import Selection
from analysis.nonfinite import begin_with, nonfinite, told
from analysis.outcomes import Outcome, outcomes
from analysis.queries import projection_by_pair
from analysis.statistics import FEWEST_STEPS, false_discovery, holm, means
from analysis.verdicts import Branch, Harm, Pair, Place, Verdict, Window
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import RunInfo, read_run

LEVEL = 0.05
WIDE = 0.25
"""An interval of the mean cosine that is wider than this to each side says too little to call it noise."""
THEOREM = (
    "PCGrad's Theorem 2 (arXiv 2001.06782): for two tasks and one step, the loss after the projected step is at most "
    "that after the plain one if (a) their cosine is at most -2 n_i n_j / (n_i^2 + n_j^2), (b) the curvature along the "
    "update is large enough and (c) the step size is. Only (a) can be read from a record; it is part of a sufficient "
    "condition, so failing it shows no harmlessness."
)
_WINDOWS, _WINDOW_STEPS = 8, 20  # so many at most, of so many recorded steps at least
_PLACES = 5


@dataclass(frozen=True)
class Diagnosis:
    """The verdicts on a run, ready for JSON by `document`."""

    run: str
    method: str
    seed: int
    probe: str | None  # where a probe measured, as in `at step 100 of run demo`; None: a run that trained
    tasks: tuple[str, ...]
    steps: int  # recorded with gradients; of a probe: batches
    pairs: tuple[Pair, ...]
    outcomes: tuple[Outcome, ...]
    suggestions: tuple[Suggestion, ...]
    summary: str
    theorem: str = THEOREM

    def document(self) -> dict[str, Any]:
        """As dictionaries and lists."""
        return asdict(self)


def diagnose(run: Path) -> Diagnosis:
    """Diagnose one run.

    Raises:
        OrthoLoraError: not a run, no pair of tasks is recorded, or a part of it cannot be read.
    """
    info = read_run(run)
    by_step = pair_steps(run, Selection())
    if by_step.empty:
        bad = nonfinite(run)
        raise OrthoLoraError(
            f"{run}: {told(bad) + ' And ' if bad else ''}no gradients of two tasks at once are recorded (method"
            f" {info.method}, {len(info.tasks)} tasks), "
            "so there is no pair to diagnose."
        )
    recorded = int(by_step["step"].nunique())
    # Batches at the same parameters have no course to be cut into windows.
    windows = 1 if info.probe else min(_WINDOWS, max(recorded // _WINDOW_STEPS, 1))
    timed = by_window(by_step, info, windows)
    whole = agreement(by_step, info)
    whole = whole.merge(needed(whole)[[*PAIR, "to_exclude_zero"]], on=PAIR)
    found = judge(whole.merge(_after(by_step), on=PAIR, how="left"), timed)
    places = block_cosines(run, Selection())
    places["q"] = false_discovery(places["p"].to_numpy())
    projection = projection_by_pair(run, Selection()).set_index(["branch", "task", "against"])
    projection = projection.reindex([(branch, *pair) for branch, *two in found.index for pair in (two, two[::-1])])
    harms = _harms(model_steps(run), info)

    names = info.task_names
    present = set(found.index)
    on = sorted(by_step["branch"].unique())
    timed_of, places_of = (dict(iter(frame.groupby(PAIR))) for frame in (timed, places))
    pairs = []
    for one, other in ((one, other) for i, one in enumerate(names) for other in names[i + 1 :]):
        branches = tuple(
            _branch(key, found.loc[key], timed_of[key], places_of.get(key, places.iloc[:0]), projection)
            for branch in on
            if (key := (branch, one, other)) in present
        )
        if not branches:
            continue
        verdict = overall([branch.verdict for branch in branches])
        pairs.append(Pair(one, other, verdict, shares_texts(info.tasks, one, other), harms[one, other], branches))
    shown = outcomes(run)
    summary, suggestions = begin_with(nonfinite(run), *advise(info, pairs, shown))
    return Diagnosis(
        info.run_id,
        info.method,
        info.seed,
        info.probe.where if info.probe else None,
        tuple(names),
        recorded,
        tuple(pairs),
        shown,
        suggestions,
        summary,
    )


def judge(found: pd.DataFrame, timed: pd.DataFrame | None = None) -> pd.DataFrame:
    """Add p_holm and verdict to a frame of `agreement`, all pairs and branches of a run, indexed by pair.

    A pair may conflict in a part of the steps only. So half of the error goes to its mean over all steps and half to
    its windows, corrected for their number; the stronger of the two decides, and its sign is the verdict's.

    Args:
        found: of all steps.
        timed: the same by window of steps, as of `by_window`.
    """
    found = found.set_index(PAIR).sort_index()
    p, cosine = found["p"].to_numpy(np.float64), found["cos"].to_numpy(np.float64)
    if timed is not None and timed["step"].nunique() > 1:
        p_window = timed.pivot(index=PAIR, columns="step", values="p").reindex(found.index).to_numpy(np.float64)
        of_window = timed.pivot(index=PAIR, columns="step", values="cos").reindex(found.index).to_numpy(np.float64)
        count = (~np.isnan(p_window)).sum(axis=1)
        least = np.where(np.isnan(p_window), np.inf, p_window).argmin(axis=1)
        rows = np.arange(len(found))
        in_window = p_window[rows, least] * count
        cosine = np.where(in_window < p, of_window[rows, least], cosine)
        p = np.minimum(2 * np.fmin(p, in_window), 1.0)
    found["p_holm"] = holm(p)
    half_width = (found["cos_high"] - found["cos_low"]).to_numpy(np.float64) / 2
    clear = found["p_holm"].to_numpy() <= LEVEL
    found["verdict"] = np.select(
        [clear & (cosine < 0), clear, half_width <= WIDE],
        ["conflict", "aligned", "indistinguishable from noise"],
        "not enough data",
    )
    return found


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a pair: the worst news of its branches, and `not enough data` only where none has more."""
    order: tuple[Verdict, ...] = ("conflict", "aligned", "indistinguishable from noise", "not enough data")
    return min(verdicts, key=order.index)


def _after(by_step: pd.DataFrame) -> pd.DataFrame:
    return by_step.groupby(PAIR, as_index=False)[["cos_after", "rate_after"]].mean()


def _branch(
    key: tuple[str, str, str], row: pd.Series, timed: pd.DataFrame, blocks: pd.DataFrame, projection: pd.DataFrame
) -> Branch:
    """What is known of a pair on a branch, from its rows: over all steps, by window, and by block."""
    branch, one, other = key
    verdict: Verdict = row["verdict"]
    windows, since, until = _windows(timed, verdict)
    sign = {"conflict": -1, "aligned": 1}.get(verdict)
    listed = blocks[(blocks["q"] <= LEVEL) & (np.sign(blocks["cos"]) == sign)].sort_values("q", kind="stable")
    listed = listed.reindex(listed["cos"].abs().sort_values(ascending=False, kind="stable").index)
    there, back = (projection.loc[(branch, *pair)] for pair in ((one, other), (other, one)))
    return Branch(
        branch=branch,
        verdict=verdict,
        steps=int(row["steps"]),
        effective_steps=_known(row["effective"]),
        cosine=_known(row["cos"]),
        cosine_low=_known(row["cos_low"]),
        cosine_high=_known(row["cos_high"]),
        p_holm=_known(row["p_holm"]),
        corrected=_known(row["corrected"]),
        corrected_low=_known(row["corrected_low"]),
        corrected_high=_known(row["corrected_high"]),
        conflict_rate=_known(row["rate"]),
        rate_low=_known(row["rate_low"]),
        rate_high=_known(row["rate_high"]),
        steps_to_exclude_zero=None if pd.isna(row["to_exclude_zero"]) else int(row["to_exclude_zero"]),
        since=since,
        until=until,
        windows=windows,
        blocks=int(blocks["cos"].notna().sum()),
        blocks_clear=len(listed),
        places=tuple(
            Place(int(block.layer), str(block.module), float(block.cos), float(block.q))
            for block in listed.head(_PLACES).itertuples()
        ),
        projected_i=_known(there["frequency"]),
        projected_j=_known(back["frequency"]),
        removed_i=_known(there["removed"]),
        removed_j=_known(back["removed"]),
        cosine_after=_known(row["cos_after"]),
        conflict_rate_after=_known(row["rate_after"]),
    )


def _windows(timed: pd.DataFrame, verdict: Verdict) -> tuple[tuple[Window, ...], int | None, int | None]:
    """The windows of a pair, and the first and last step of those that are clear by themselves and agree with it."""
    windows = tuple(
        Window(int(row.step), int(row.step_end), _known(row.cos), _known(row.cos_low), _known(row.cos_high))
        for row in timed.itertuples()
    )
    sign = {"conflict": -1, "aligned": 1}.get(verdict)
    clear = (holm(timed["p"].to_numpy(np.float64)) <= LEVEL) & (np.sign(timed["cos"].to_numpy()) == sign)
    where = np.flatnonzero(clear)
    if not len(where):
        return windows, None, None
    return windows, windows[where[0]].first, windows[where[-1]].last


def _harms(whole: pd.DataFrame, info: RunInfo) -> dict[tuple[str, str], Harm]:
    """For each pair, from `model_steps`: the gradients on all blocks together, which is what the theorem is about."""
    keys = ["task_i", "task_j"]
    columns = ["inner_product", "square_i", "square_j", "product", "half_i", "half_j"]
    norms = [np.sqrt(whole[f"square_{side}"]) for side in "ij"]
    scale = norms[0] * norms[1]
    whole["cos"] = whole["inner_product"] / scale.where(scale > 0)
    whole["rate"] = (whole["cos"] < 0).astype(float).where(whole["cos"].notna())
    similarity = 2 * scale / (norms[0] ** 2 + norms[1] ** 2)
    whole["met"] = (whole["cos"] <= -similarity).astype(float).where(whole["cos"].notna())
    found = agreement(whole, info, keys)
    found["met"] = means(BySteps(whole, keys)["met"]).value
    sums = whole.groupby(keys)[columns].mean()
    harms = {}
    for row in found.itertuples():
        one, other = str(row.task_i), str(row.task_j)
        of = sums.loc[(one, other)]
        corrected = _known(row.corrected)
        name = "square" if corrected is None else "half"
        of_i, of_j = (np.sqrt(max(of[f"{name}_{side}"], 0.0)) for side in "ij")
        ratio = float(of_i / of_j) if of_i > 0 and of_j > 0 else None
        similar = None if ratio is None else 2 * ratio / (1 + ratio**2)
        told = row.steps >= FEWEST_STEPS
        cosine = corrected if corrected is not None else _known(row.cos)
        harms[one, other] = Harm(
            cosine=_known(row.cos),
            cosine_low=_known(row.cos_low),
            cosine_high=_known(row.cos_high),
            corrected=corrected,
            corrected_low=_known(row.corrected_low),
            corrected_high=_known(row.corrected_high),
            norm_ratio=ratio,
            magnitude_similarity=similar,
            from_corrected=corrected is not None,
            enough=cosine <= -similar if told and cosine is not None and similar is not None else None,
            share_of_steps=_known(row.met),
        )
    return harms


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
