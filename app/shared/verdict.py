"""The verdict on one pair of tasks in conflict or aligned, with what it rests on and ways to look closer."""

import streamlit as st

from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.sentences import evidence
from analysis.diagnosis.verdicts import Pair
from app.shared import links, state
from ortho_lora.record.judge import MARKS

COLOURS = {"conflict": "red", "aligned": "blue"}


def card(pair: Pair) -> None:
    """A card: where, since when, and whether it is enough to hurt."""
    with st.container(border=True):
        names = f"{state.plain(pair.task_i)} – {state.plain(pair.task_j)}"
        twins = " · draw the same texts" if pair.shares_texts else ""
        st.markdown(f"#### {names} :{COLOURS[pair.verdict]}-badge[{MARKS[pair.verdict]} {pair.verdict}]{twins}")
        st.markdown("\n".join(map(_item, evidence(pair))))
        with st.container(horizontal=True):
            branch = pair.strongest.branch
            links.to_evidence((pair.task_i, pair.task_j), branch if branch != WHOLE else None)


def _item(sentence: str) -> str:
    """A sentence in a list, what it is about in bold."""
    about, colon, rest = sentence.partition(": ")
    return f"- **{state.plain(about)}:** {state.plain(rest)}" if colon else f"- {state.plain(sentence)}"
