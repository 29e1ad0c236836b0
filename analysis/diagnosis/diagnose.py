"""A verdict on every pair of tasks of a run: do they conflict, where, since when, how much, and is it more than chance.

The verdicts are `record.judge`'s, on the run's snapshots, or without one on all steps. Blocks, snapshots and windows of
steps are named after a correction of their own, and only where they agree with the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.conflict.agreement import (
    PAIR,
    agreement,
    by_window,
    model_steps,
    pair_steps,
    shares_texts,
    with_snapshot,
)
from analysis.conflict.queries import blocks, projection_by_pair
from analysis.conflict.snapshots import WHOLE, over_snapshots, snapshot_blocks, snapshot_norms, together
from analysis.conflict.steps import BySteps
from analysis.diagnosis.advice import ByTransfer, Suggestion, advise
from analysis.diagnosis.nonfinite import begin_with, nonfinite, told
from analysis.diagnosis.verdicts import Agreement, Branch, Harm, Pair, Place, Window
from analysis.library.names import branches_of
from analysis.outcomes.beside import Outcome, outcomes
from analysis.reading.database import Selection
from analysis.statistics.series import row_means
from analysis.transfer.advice import advised_groups, advised_split
from analysis.transfer.predicted import transfer_matrix
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.judge import LEVEL, Verdict, false_discovery, overall
from ortho_lora.record.schema import RunInfo, read_run

THEOREM = (
    "PCGrad's Theorem 2 (arXiv 2001.06782): for two tasks and one step, the loss after the projected step is at most "
    "that after the plain one if (a) their cosine is at most -2 n_i n_j / (n_i^2 + n_j^2), (b) the curvature along the "
    "update is large enough and (c) the step size is. Only (a) can be read from a record; it is part of a sufficient "
    "condition, so failing it shows no harmlessness."
)
_WINDOWS, _WINDOW_STEPS = 8, 20  # so many at most, of so many recorded steps at least
_PLACES = 5

_Key = tuple[str, str, str]  # branch and two tasks
_Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Diagnosis:
    """The verdicts on a run, ready for JSON by `document`."""

    run: str
    method: str
    seed: int
    probe: str | None  # where a probe measured, as in `at step 100 of run demo`; None: a run that trained
    tasks: tuple[str, ...]
    steps: int  # recorded with gradients
    snapshots: tuple[int, ...]  # steps of those that the verdicts are of; none: they are of the steps
    pairs: tuple[Pair, ...]
    outcomes: tuple[Outcome, ...]
    suggestions: tuple[Suggestion, ...]
    summary: str
    theorem: str = THEOREM

    def document(self) -> dict[str, Any]:
        """As dictionaries and lists."""
        return asdict(self)


def diagnose(run: Path) -> Diagnosis:
    """Diagnose one run: by its snapshots, or where it has none by its steps.

    Raises:
        OrthoLoraError: not a run, no pair of tasks is recorded, or a part of it cannot be read.
    """
    info = read_run(run)
    by_step = pair_steps(run, Selection())
    found = with_snapshot(agreement(by_step, info), run, Selection())
    if found.empty:
        bad = nonfinite(run)
        raise OrthoLoraError(
            f"{run}: {told(bad) + ' And ' if bad else ''}no gradients of two tasks at once are recorded (method"
            f" {info.method}, {len(info.tasks)} tasks), "
            "so there is no pair to diagnose."
        )
    recorded = int(by_step.drop_duplicates("step")["steps"].sum())
    snapshots = tuple(together(run))
    after = by_step.groupby(PAIR, as_index=False)[["cos_after", "rate_after"]].mean()
    found = found.merge(after, on=PAIR, how="left").set_index(PAIR).sort_index()
    timed, places = _over_snapshots(run) if snapshots else _over_steps(run, by_step, info, recorded)
    projection = projection_by_pair(run, Selection()).set_index(["branch", "task", "against"])
    projection = projection.reindex([(branch, *pair) for branch, *two in found.index for pair in (two, two[::-1])])
    # Plain dictionaries: among fifty tasks are thousands of pairs and branches, and pandas takes milliseconds of each.
    projected = projection[["frequency", "removed"]].to_dict("index")
    rows = found.to_dict("index")
    harms = _harms(run, info)

    names = info.task_names
    on = branches_of(branch for branch, *_ in found.index)
    timed_of, places_of = (_by_pair(frame) for frame in (timed, places))
    pairs = []
    for one, other in ((one, other) for i, one in enumerate(names) for other in names[i + 1 :]):
        branches = tuple(
            _branch(
                key,
                rows[key],
                timed_of.get(key, []),
                places_of.get(key, []),
                projected,
            )
            for branch in on
            if (key := (branch, one, other)) in rows
        )
        if not branches:
            continue
        harm, whole = harms[one, other]
        if branches[0].branch == WHOLE:
            verdict, whole = branches[0].verdict, vars(branches[0])
        else:
            verdict = overall([branch.verdict for branch in branches if branch.measured])
        cosine, low, high = (whole[name] for name in ("cosine", "cosine_low", "cosine_high"))
        shared = shares_texts(info.tasks, one, other)
        pairs.append(Pair(one, other, cosine, low, high, verdict, shared, harm, branches))
    shown = outcomes(run)
    known = ByTransfer(transfer_matrix(run), advised_groups(run), advised_split(run))
    summary, suggestions = begin_with(nonfinite(run), *advise(info, pairs, shown, known))
    return Diagnosis(
        info.run_id,
        info.method,
        info.seed,
        info.probe.where if info.probe else None,
        tuple(names),
        recorded,
        snapshots,
        tuple(pairs),
        shown,
        suggestions,
        summary,
    )


def _over_steps(run: Path, by_step: pd.DataFrame, info: RunInfo, recorded: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each pair by window of steps, and on each block, as the steps tell."""
    places = blocks(run, Selection()).rename(columns={"cos": "cosine"})
    return by_window(by_step, info, min(_WINDOWS, max(recorded // _WINDOW_STEPS, 1))), places


def _over_snapshots(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each pair at each snapshot, and on each block."""
    timed = over_snapshots(run)
    return timed.assign(step=timed["snapshot"], step_end=timed["snapshot"], cos=np.nan), snapshot_blocks(run)


def _by_pair(frame: pd.DataFrame) -> dict[_Key, list[_Row]]:
    """Its rows by branch and tasks."""
    found: dict[_Key, list[_Row]] = {}
    for row in frame.to_dict("records"):
        found.setdefault((row["branch"], row["task_i"], row["task_j"]), []).append(row)
    return found


def _branch(
    key: _Key, row: _Row, timed: Sequence[_Row], places: Sequence[_Row], projection: Mapping[_Key, _Row]
) -> Branch:
    """What is known of a pair on a branch, from its rows: over all steps, by window, and by block."""
    branch, one, other = key
    verdict: Verdict = row["verdict"]
    windows, since, until = _windows(timed, verdict)
    listed = sorted((place for place in places if place["clear"]), key=lambda place: -abs(place["cosine"]))
    there, back = (projection[(branch, *pair)] for pair in ((one, other), (other, one)))
    return Branch(
        **vars(Agreement.of({**row, "branch": branch})),
        since=since,
        until=until,
        windows=windows,
        blocks=sum(not pd.isna(place["cosine"]) for place in places),
        blocks_clear=len(listed),
        places=tuple(
            Place(int(of["layer"]), str(of["module"]), _known(of["cosine"]), float(of["q"])) for of in listed[:_PLACES]
        ),
        projected_i=_known(there["frequency"]),
        projected_j=_known(back["frequency"]),
        removed_i=_known(there["removed"]),
        removed_j=_known(back["removed"]),
        cosine_after=_known(row["cos_after"]),
        conflict_rate_after=_known(row["rate_after"]),
    )


def _windows(timed: Sequence[_Row], verdict: Verdict) -> tuple[tuple[Window, ...], int | None, int | None]:
    """The windows, or snapshots, of a pair, and the first and last step of those that agree with it by themselves."""
    names = ("cosine", "cosine_low", "cosine_high", "cos")
    windows = tuple(
        Window(int(row["step"]), int(row["step_end"]), *(_known(row[name]) for name in names)) for row in timed
    )
    if timed and "verdict" in timed[0]:  # each snapshot is judged
        clear = np.array([row["verdict"] == verdict for row in timed])
    else:
        clear = false_discovery(np.array([row["p"] for row in timed], dtype=np.float64)) <= LEVEL
    side = {"conflict": lambda row: row["cosine_high"] <= 0, "aligned": lambda row: row["cosine_low"] >= 0}.get(verdict)
    where = [place for place, row in enumerate(timed) if clear[place] and side is not None and side(row)]
    if not where:
        return windows, None, None
    return windows, windows[where[0]].first, windows[where[-1]].last


def _harms(run: Path, info: RunInfo) -> dict[tuple[str, str], tuple[Harm, dict[str, float | None]]]:
    """For each pair, the gradients on all blocks together, which is what the theorem is about, and their cosine.

    Sizes and cosine of the theorem are those of the snapshots, in the gradients' own space, where there is one.
    """
    whole, keys = model_steps(run), ["task_i", "task_j"]
    norms = [np.sqrt(whole[f"square_{side}"]) for side in "ij"]
    similarity = 2 * norms[0] * norms[1] / (norms[0] ** 2 + norms[1] ** 2)
    whole["met"] = (whole["cos"] <= -similarity).astype(float).where(whole["cos"].notna())
    found = agreement(whole, info, keys)
    found["met"] = row_means(BySteps(whole, keys)["met"])
    sums = whole.groupby(keys)[["square_i", "square_j", "signal_i", "signal_j"]].mean()
    snapshot = snapshot_norms(run)
    found = found.merge(snapshot.rename(columns={"cosine": "true_cosine"}), how="outer", on=keys)
    harms = {}
    for row in found.itertuples():
        one, other = str(row.task_i), str(row.task_j)
        cosine, from_signal, ratio = _known(row.cosine), True, _known(row.ratio)
        of_theorem = cosine
        if len(snapshot):
            of_theorem = _known(row.true_cosine)
        else:
            of = sums.loc[(one, other)]
            from_signal = cosine is not None and not shares_texts(info.tasks, one, other)
            of_i, of_j = (np.sqrt(max(of[f"{'signal' if from_signal else 'square'}_{side}"], 0.0)) for side in "ij")
            ratio = float(of_i / of_j) if of_i > 0 and of_j > 0 else None
        similar = None if ratio is None else 2 * ratio / (1 + ratio**2)
        harm = Harm(
            norm_ratio=ratio,
            magnitude_similarity=similar,
            from_signal=from_signal,
            enough=None if of_theorem is None or similar is None else of_theorem <= -similar,
            cosine=of_theorem,
            share_of_steps=_known(row.met),
        )
        ends = {name: _known(getattr(row, name)) for name in ("cosine", "cosine_low", "cosine_high")}
        harms[one, other] = harm, ends
    return harms


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
