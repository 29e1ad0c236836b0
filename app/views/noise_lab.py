"""Gradients whose true cosine is known, read in three ways as one drags what a batch is."""

from functools import partial

import streamlit as st

from analysis import figures
from analysis.conflict import noise
from app.shared import figure

SIZES = tuple(2**power for power in range(1, 11))
BATCHES = tuple(2**power for power in range(3, 10))


def show() -> None:
    """Under the playground."""
    st.header("Through noise", anchor="noise-lab")
    st.markdown(
        f"Of a batch of {noise.AT} texts about {noise.SIGNAL:.0%} of the squared [gradient](learn#gradient) is signal."
        " Here the true cosine is known: drag, and see what each way of reading the same batches makes of it. A"
        " [snapshot](learn#snapshot) multiplies every batch of one task with every one of the other, on other texts."
    )
    left, right = st.columns([1, 2], gap="large")
    with left:
        truth = st.slider("True cosine", -1.0, 1.0, -0.5, 0.1, key="noise-truth", bind="query-params")
        size = st.select_slider("Texts in a batch", SIZES, noise.AT, key="noise-size", bind="query-params")
        count = st.select_slider("Batches of each task", BATCHES, 32, key="noise-batches", bind="query-params")
        draws = st.session_state.setdefault("noise-draw", 0)
        if st.button("Other batches", icon=":material/casino:", key="noise-again"):
            st.session_state["noise-draw"] = draws = draws + 1
        st.caption(f"{noise.signal_of(size):.1%} of such a batch is signal.")
    with right:
        found = noise.estimates(truth, size, count, draws)
        told = ", ".join(
            f"{row['estimate']} {row['cosine']:+.2f}" for row in found.dropna(subset="cosine").to_dict("records")
        )
        draw = partial(figures.known_cosine, found, truth)
        figure.show("noise-lab", draw, found, alt=f"The true cosine is {truth:+.1f}; {told}.")
