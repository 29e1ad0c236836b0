"""Of the Study page: what a study varies, and how methods and conflict answer to it."""

from functools import partial

import streamlit as st

from analysis import figures
from analysis.study.drawing import grids
from analysis.study.findings import Findings
from app.shared import figure, state


def curves(findings: Findings) -> None:
    """One figure for an axis; of several axes the one chosen, at one place of the others."""
    axes = {axis: labels for axis, labels in findings.axes.items() if len(labels) > 1}
    if not axes or findings.over_axes.empty:
        return
    frame, axis = findings.over_axes, next(iter(axes))
    line = st.container(horizontal=True)
    if len(axes) > 1:
        axis = line.selectbox("Over", list(axes), key="study-axis", bind="query-params", filter_mode=None)
    for other in [other for other in axes if other != axis]:
        label = line.selectbox(state.plain(other), axes[other], key=f"study-axis-{other}", filter_mode=None)
        frame = frame[frame[other] == label]
    st.subheader(f"Over {state.plain(axis)}")
    st.caption(
        "Bars: standard deviation over seeds; in the second panel the 95% [interval](learn#interval). A"
        " [cosine](learn#cosine) below 0 is [conflict](learn#conflict); where it is near 0, about half of the pairs are"
        " projected by chance."
    )
    figure.show(
        "study-axes",
        partial(figures.axis_curves, frame, axis, findings.axes[axis], findings.methods, findings.baseline),
        frame,
        alt=f"Metric, gain, cosine and share of projected pairs over {axis}, a line a method.",
    )


def grid(findings: Findings) -> None:
    """Of two axes: where it matters."""
    drawn = dict(grids(findings))
    if not drawn:
        return
    name = st.selectbox("Over both axes", list(drawn), key="study-grid", bind="query-params", filter_mode=None)
    st.caption("Red: worse than the baseline; bold: by more than noise.")
    figure.show(
        "study-grid",
        partial(drawn[name]),
        findings.over_axes,
        alt=f"The {name} at every place of two axes.",
    )
