"""Real sentences behind a pair: which held-out texts of one task a step for the other harms, and which it helps."""

from functools import partial

import pandas as pd
import streamlit as st

from analysis.library.names import nats_unit
from analysis.library.runs import Run
from analysis.transfer.texts import texts_of
from analysis.transfer.words import told_of_texts
from app.shared import address, figure, state
from app.shared.selection import Pair

MOST = 5
"""Texts on either side."""


def show(run: Run, pair: Pair) -> None:
    """Nothing where no texts are recorded."""
    ways = {f"{source} → {target}": (source, target) for source, target in (pair, pair[::-1])}
    if not any(len(state.ask(texts_of, run, *way)) for way in ways.values()):
        return
    st.subheader("In which texts", anchor=False)
    if st.session_state.get("way") not in ways:
        st.session_state["way"] = next(iter(ways))
    chosen = st.segmented_control("A step for the first, texts of the second", list(ways), required=True, key="way")
    address.say(way=[chosen] if chosen != next(iter(ways)) else [])
    source, target = ways[str(chosen)]
    frame = state.ask(texts_of, run, source, target)
    told = state.plain(told_of_texts(frame, source, target))
    if frame.empty:
        st.info(told)
        return
    harmed, helped = frame[frame["nats"] > 0], frame[frame["nats"] < 0][::-1]
    st.caption(f"{told} Drawn at random; of each the loss, and what the step adds to it.")
    left, right = st.columns(2, gap="medium")
    with left:
        _list("Harmed most", harmed.head(MOST), frame)
    with right:
        _list("Helped most", helped.head(MOST), frame)
    figure.below("texts", partial(figure.numbers, "texts", frame))


def _list(title: str, rows: pd.DataFrame, of: pd.DataFrame) -> None:
    factor, unit = nats_unit(float(of["nats"].abs().max()))
    st.markdown(f"**{title}**, {unit} a step")
    told = []
    for row in rows.to_dict("records"):
        text, label = state.plain(" ".join(row["text"].split())), state.plain(row["label"])
        told.append(f"- **{factor * row['nats']:+.1f}** {text} :small[({label}, loss {row['loss']:.2f})]")
    st.markdown("\n".join(told) or "None.")
