"""Real sentences behind a pair: which held-out texts of one task a step for the other harms, and which it helps."""

from functools import partial

import pandas as pd
import streamlit as st

from analysis.library.names import nats_unit
from analysis.library.runs import Run
from analysis.transfer.texts import texts_of
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
    if frame.empty:
        st.info(f"No held-out texts of {state.plain(target)} are recorded.")
        return
    harmed, helped = frame[frame["nats"] > 0], frame[frame["nats"] < 0][::-1]
    st.caption(
        f"By its own gradient alone (pull) a step for {state.plain(source)} raises the loss of {len(harmed)} of"
        f" {len(frame)} validation texts of {state.plain(target)}. Drawn at random; of each the loss, and what the step"
        " adds to it."
    )
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
