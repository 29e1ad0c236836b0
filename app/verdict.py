"""The verdict on one pair of tasks, with what it rests on and ways to look closer."""

from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.sentences import more_batches, sentences, share, signed
from analysis.verdicts import MARKS, Branch, Pair
from app import figure, links, state

COLOURS = {"conflict": "red", "aligned": "blue"}
_TABLE = """
| branch | verdict | mean cosine | corrected for noise | negative | steps (worth) |
|:--|:--|--:|--:|--:|--:|
"""


def card(pair: Pair) -> None:
    """A card: the verdict first; of a pair told apart from noise also where, when, how much, and what helped."""
    told = pair.verdict in ("conflict", "aligned")
    with st.container(border=True):
        names = f"{state.plain(pair.task_i)} – {state.plain(pair.task_j)}"
        colour = COLOURS.get(pair.verdict, "gray")
        twins = " · draw the same texts" if pair.shares_texts else ""
        st.markdown(f"#### {names} :{colour}-badge[{MARKS[pair.verdict]} {pair.verdict}]{twins}")
        if told:
            st.markdown(_TABLE + "\n".join(map(_row, pair.branches)))
            _evidence(pair)
        else:
            st.markdown("; ".join(f"branch {branch.branch}: {_cosine(branch)}" for branch in pair.branches))
        if not told and (more := more_batches(pair)):
            st.caption(f"Further batches until an interval excludes 0, if the cosine is as found: {more}.")
        with st.container(horizontal=True):
            links.to_evidence((pair.task_i, pair.task_j), pair.strongest.branch if told else None)


def _evidence(pair: Pair) -> None:
    timed = pd.DataFrame(
        [
            {"branch": branch.branch, **vars(window)}
            for branch in pair.branches
            if len(branch.windows) > 1
            for window in branch.windows
        ]
    )
    words, drawn = (st.columns([3, 2], gap="medium")) if len(timed) else (st.container(), None)
    words.markdown("\n".join(map(_item, sentences(pair))))
    if drawn:
        with drawn:
            figure.show(
                f"windows-{pair.task_i}-{pair.task_j}",
                partial(figures.windows, timed, dark=state.is_dark()),
                timed,
                alt=f"Mean cosine of {pair.task_i} and {pair.task_j} in windows of steps, with 95% intervals.",
            )


def _item(sentence: str) -> str:
    """A sentence in a list, what it is about in bold."""
    about, colon, rest = sentence.partition(": ")
    return f"- **{state.plain(about)}:** {state.plain(rest)}" if colon else f"- {state.plain(sentence)}"


def _row(branch: Branch) -> str:
    cells = [
        branch.branch,
        f"{MARKS[branch.verdict]} {branch.verdict}",
        _cosine(branch),
        _ranged(branch.corrected, branch.corrected_low, branch.corrected_high),
        share(branch.conflict_rate),
        f"{branch.steps} ({signed(branch.effective_steps, '.0f')})",
    ]
    return f"| {' | '.join(cells)} |"


def _cosine(branch: Branch) -> str:
    return _ranged(branch.cosine, branch.cosine_low, branch.cosine_high)


def _ranged(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    within = "" if low is None or high is None else f" ({signed(low)} to {signed(high)})"
    return f"{signed(value)}{within}".replace(" ", "\N{NO-BREAK SPACE}")
