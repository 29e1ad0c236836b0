"""What to try, each with its evidence, and what a diagnosis comes to in a few sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.diagnosis.verdicts import Pair
from analysis.library.names import nats_unit
from analysis.outcomes.beside import Outcome
from analysis.statistics.seeds import MANY, missed_by_chance
from analysis.transfer.predicted import says_nats
from analysis.transfer.words import headline, told_of_gain, told_of_groups
from ortho_lora.record.judge import TOLD, WORTH
from ortho_lora.record.schema import RunInfo, groups_text

IMBALANCED = 3.0
"""Ratio of two tasks' gradient norms from which loss weights are suggested; a convention."""


@dataclass(frozen=True)
class Suggestion:
    """One thing to try."""

    kind: Literal["finite losses", "separate adapters", "higher rank", "loss weights", "more data", "nothing"]
    text: str
    evidence: str
    groups: tuple[tuple[str, ...], ...] = ()  # of tasks, with `separate adapters`


class ByTransfer(NamedTuple):
    """What snapshots with held-out texts predict; no rows without one."""

    effects: pd.DataFrame  # of `transfer.predicted.transfer_matrix`
    groups: pd.DataFrame  # of `transfer.advice.advised_groups`
    split: tuple[tuple[str, ...], ...]  # of `transfer.advice.advised_split`


def advise(
    info: RunInfo, pairs: Sequence[Pair], outcomes: Sequence[Outcome], known: ByTransfer | None = None
) -> tuple[str, tuple[Suggestion, ...]]:
    """The diagnosis in short, and suggestions: where transfer is predicted, which adapters to part by it, else by
    cosines.
    """
    told = known if known is not None and says_nats(known.effects) else None
    conflicts = [pair for pair in pairs if pair.verdict == "conflict"]
    short = [pair for pair in pairs if pair.verdict == "not enough data"]
    suggestions = [
        *(_by_transfer(told) if told else _separate(info, pairs)),
        *_rank(info, conflicts, outcomes),
        *_weights(pairs),
    ]
    if short:
        if info.groups:
            more = "Train longer, or probe a run with one adapter,"
        elif short[0].branches[0].snapshot is None:
            more = "Take snapshots (snapshots: 4), or probe this run,"
        else:
            more = "Take a snapshot of more batches"
        suggestions.append(
            Suggestion(
                "more data",
                f"{more} before judging these pairs.",
                f"{_names(short)}: their intervals leave open both 0 and -{WORTH:g}.",
            )
        )
    if not suggestions:
        evidence = (
            f"The conflicts are weak: {_names(conflicts)}."
            if conflicts
            else f"No pair has a cosine that may be below -{WORTH:g}."
        )
        suggestions.append(Suggestion("nothing", "Nothing in these gradients asks for a change.", evidence))
    summary = _verdict(pairs, conflicts, short) + (f" In nats: {headline(told.effects)}" if told else "")
    if info.probe:
        shown = "A probe evaluates nothing: whether it shows in the metrics only runs that train can tell."
        return f"Probe {info.probe.where}: {summary} {shown}", tuple(suggestions)
    return f"{summary} {_shown(outcomes)}", tuple(suggestions)


def clusters(names: Sequence[str], pairs: Sequence[Pair]) -> tuple[tuple[str, ...], ...]:
    """Tasks that go together: average-linkage clusters of 1 - cosine, apart where it exceeds 1 on average.

    Only pairs in conflict or aligned count, by the cosine of their strongest branch; the others are 0.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import, and few pages need it
    from scipy.spatial.distance import squareform

    place = {name: index for index, name in enumerate(names)}
    distance = 1 - np.eye(len(names))
    for pair in pairs:
        if pair.verdict in TOLD:
            i, j = place[pair.task_i], place[pair.task_j]
            distance[i, j] = distance[j, i] = 1 - pair.strongest.at_least
    labels = fcluster(linkage(squareform(distance, checks=False), "average"), 1.0 + 1e-9, "distance")
    return tuple(
        tuple(name for name, label in zip(names, labels, strict=True) if label == wanted)
        for wanted in dict.fromkeys(labels)
    )


def _by_transfer(known: ByTransfer) -> list[Suggestion]:
    if len(known.split) < 2:
        return []
    gain = told_of_gain(known.groups, *nats_unit(float(known.groups["gain"].abs().max())))
    return [Suggestion("separate adapters", told_of_groups(known.groups), gain, known.split)]


def _separate(info: RunInfo, pairs: Sequence[Pair]) -> list[Suggestion]:
    clear = [pair for pair in pairs if pair.verdict == "conflict" and pair.strongest.at_least <= -WORTH]
    if not clear:
        return []
    found = clusters(info.task_names, pairs)
    if len(found) < 2:
        return []
    listed = " and ".join("{" + ", ".join(group) + "}" for group in found)
    setting = "method: single" if len(found) == len(info.tasks) else f"groups: {groups_text(found)}"
    cosines = "; ".join(f"{pair.task_i} – {pair.task_j} {pair.strongest.at_least:+.2f}" for pair in clear)
    return [
        Suggestion(
            "separate adapters",
            f"Train separate adapters for {listed} ({setting}). Tasks without a verdict would fit either group.",
            f"Cosines: {cosines}; average-linkage clusters of 1 - cosine.",
            found,
        )
    ]


def _rank(info: RunInfo, conflicts: Sequence[Pair], outcomes: Sequence[Outcome]) -> list[Suggestion]:
    rank = info.config.get("rank")
    lost = [one for one in outcomes if one.method == "single" and one.clear and one.difference > 0]
    if not conflicts or not lost or not isinstance(rank, int):
        return []
    tasks = ", ".join(f"{one.task} {one.difference:+.3f}" for one in lost)
    return [
        Suggestion(
            "higher rank",
            f"Try a rank above {rank} with the plain sum, and compare.",
            f"Alone these tasks do better than together ({tasks}), and tasks conflict. A higher rank gives them room; "
            "in the paper's own table (arXiv 2601.09684) joint training gained more from rank 4 to 32 than from "
            "projection at rank 8. Not measured here.",
        )
    ]


def _weights(pairs: Sequence[Pair]) -> list[Suggestion]:
    uneven = []
    for pair in pairs:
        ratio = pair.whole.norm_ratio
        if pair.verdict != "not enough data" and ratio and max(ratio, 1 / ratio) >= IMBALANCED:
            large, small = (pair.task_i, pair.task_j) if ratio > 1 else (pair.task_j, pair.task_i)
            uneven.append(f"{large} {max(ratio, 1 / ratio):.1f} times {small}")
    if not uneven:
        return []
    return [
        Suggestion(
            "loss weights",
            "Try a larger loss weight for the tasks with the smaller gradients.",
            f"Gradient norms: {'; '.join(uneven)}. The larger ones decide the direction of the sum.",
        )
    ]


def _verdict(pairs: Sequence[Pair], conflicts: Sequence[Pair], short: Sequence[Pair]) -> str:
    if conflicts:
        return f"{len(conflicts)} of {len(pairs)} pairs conflict: {_names(conflicts)}."
    if len(short) == len(pairs):
        return "There is not enough data to tell whether any pair conflicts."
    if short:
        return f"No conflict is found; for {len(short)} of {len(pairs)} pairs there is not enough data to tell."
    return f"No pair conflicts worth the name: each cosine is above -{WORTH:g}."


def _shown(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return (
            "Whether it shows in the metrics is not known: there is no finished run of joint, with single or "
            "projected ones beside it, that differs from this run in method and seed alone."
        )
    few = max(len(one.seeds) for one in outcomes) < 3
    if few:
        return "Runs to compare have fewer than three seeds: their differences may be chance."
    said = [
        f"{one.task} is {'better' if one.difference > 0 else 'worse'} with {one.method} than with joint "
        f"({one.metric} {one.difference:+.3f}, 95% interval {one.low:+.3f} to {one.high:+.3f})"
        for one in outcomes
        if one.clear
    ]
    if not said:
        return "No task's metric differs clearly between joint, single and projected runs."
    many = f" Of {len(outcomes)} such intervals about {missed_by_chance(len(outcomes))} exclude 0 by chance."
    return f"In the metrics: {'; '.join(said)}.{many if len(outcomes) >= MANY else ''}"


def _names(pairs: Sequence[Pair]) -> str:
    return "; ".join(f"{pair.task_i} – {pair.task_j}" for pair in pairs)
