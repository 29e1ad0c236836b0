"""The verdict on one pair of tasks, with what it rests on and ways to look closer."""

from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.sentences import evidence
from analysis.diagnosis.verdicts import Branch, Pair
from analysis.library.names import branch_cell, interval, number
from app.shared import figure, links, state
from ortho_lora.record.judge import MARKS, TOLD

COLOURS = {"conflict": "red", "aligned": "blue"}
_TABLE = """
| branch | verdict | cosine | batch cosine | negative | steps |
|:--|:--|--:|--:|--:|--:|
"""


def card(pair: Pair) -> None:
    """A card: the verdict by branch; of a pair in conflict or aligned also where, when, and what projection did."""
    told = pair.verdict in TOLD
    with st.container(border=True):
        names = f"{state.plain(pair.task_i)} – {state.plain(pair.task_j)}"
        colour = COLOURS.get(pair.verdict, "gray")
        twins = " · draw the same texts" if pair.shares_texts else ""
        st.markdown(f"#### {names} :{colour}-badge[{MARKS[pair.verdict]} {pair.verdict}]{twins}")
        st.markdown(_TABLE + "\n".join(map(_row, pair.branches)))
        if told:
            _evidence(pair)
        with st.container(horizontal=True):
            branch = pair.strongest.branch if told else WHOLE
            links.to_evidence((pair.task_i, pair.task_j), branch if branch != WHOLE else None)


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
    words.markdown("\n".join(map(_item, evidence(pair))))
    if drawn:
        with drawn:
            figure.show(
                f"windows-{pair.task_i}-{pair.task_j}",
                partial(figures.windows, timed),
                timed,
                alt=f"Cosine of {pair.task_i} and {pair.task_j} in windows of steps, with 95% intervals.",
            )


def _item(sentence: str) -> str:
    """A sentence in a list, what it is about in bold."""
    about, colon, rest = sentence.partition(": ")
    return f"- **{state.plain(about)}:** {state.plain(rest)}" if colon else f"- {state.plain(sentence)}"


def _row(branch: Branch) -> str:
    cells = [
        branch_cell(branch.branch),
        f"{MARKS[branch.verdict]} {branch.verdict}",
        _cosine(branch),
        number(branch.batch_cosine),
        number(branch.conflict_rate, ".0%"),
        number(branch.steps or None, ","),
    ]
    return f"| {' | '.join(cells)} |"


def _cosine(branch: Branch) -> str:
    between = f"({interval(branch.cosine_low, branch.cosine_high)})"
    return f"{number(branch.cosine)} {between}".replace(" ", "\N{NO-BREAK SPACE}")
