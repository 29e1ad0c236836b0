"""A run that trains: how far it is, its losses and metrics, and its map of conflicts as it fills."""

from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.library.runs import Run
from app.launching import launcher
from app.launching.buttons import show_button, stop_button
from app.launching.timing import duration
from app.shared import state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Identity, read_status

FIGURES_SECONDS = 8.0
"""How often figures are drawn anew: it takes a third of a second, and is to take less than a twentieth of the time."""


def show(run: Run) -> None:
    """A card that keeps itself up to date."""
    headline = st.fragment(run_every=state.LIVE_SECONDS)(_headline)
    course = st.fragment(run_every=FIGURES_SECONDS)(_course)
    with st.container(border=True):
        headline(run)
        course(run)


def _headline(run: Run) -> None:
    now = _look(run)
    status, info = now.status, now.info
    assert status is not None
    assert info is not None
    asked = launcher.stop_asked(now)
    stopping = asked or status.state == "stopping"
    shown = "stalled" if now.state == "stalled" else "stopping" if stopping else now.state
    doing = f", {state.plain(status.phase)}" if shown == "running" else ""
    left = f", about {duration(status.eta_seconds)} left" if status.eta_seconds is not None and not stopping else ""
    words, buttons = st.columns([2, 1], vertical_alignment="center")
    words.markdown(
        f"**{state.plain(run.run_id)}** · {state.plain(info.method)} · {state.SYMBOLS[shown]} {shown}{doing},"
        f" {status.progress}{left}"
    )
    with buttons.container(horizontal=True, horizontal_alignment="right"):
        show_button(run.run_id)
        stop_button(run.run_id, "Stop", asked=asked)
    if now.elsewhere:
        st.caption(f"It goes on {state.plain(now.elsewhere)}.")
    if shown == "stalled":
        st.warning("It has given no sign for longer than its steps took so far; its process lives.")
    if status.total:
        st.progress(min(status.step / status.total, 1.0))


def _course(run: Run) -> None:
    now = _look(run)
    try:
        _losses(now)
        with st.container(horizontal=True):
            with st.container(width="stretch"):
                _metrics(now)
            with st.container(width=430):
                _conflicts(now)
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    with st.expander("Log", icon=":material/notes:"):
        st.code(launcher.tail(run.path / "log.txt", 15) or "nothing yet", language=None)


def _look(run: Run) -> Run:
    """The run as it is now."""
    return replace(run, status=read_status(run.path) or run.status)


def _losses(run: Run) -> None:
    assert run.status is not None
    steps = state.ask_of_runs(queries.losses, [run])
    with st.container(horizontal=True):
        for task, loss in run.status.losses.items():
            course = steps.loc[steps["task"] == task, "loss"].tail(200).tolist()
            st.metric(
                f"{state.plain(task)} loss", f"{loss:.3f}", chart_data=course if len(course) > 1 else None, width=150
            )


def _metrics(run: Run) -> None:
    assert run.info is not None
    values = state.ask_of_runs(queries.metrics, [run])
    if values.empty:
        kind = "lookahead" if run.info.probe and run.info.probe.steps else "probe"
        st.caption(f"A {kind} evaluates no metrics." if run.info.probe else "No evaluation is done yet.")
        return
    figure = _metric_figure(str(run.path), len(values), state.is_dark(), values, run.info)
    st.plotly_chart(figure, theme=None, width="stretch", key=f"live-{run.run_id}", alt=figures.describe(values))


@st.cache_data(show_spinner=False, max_entries=8)
def _metric_figure(run: str, rows: int, dark: bool, _values: pd.DataFrame, _info: Identity) -> go.Figure:
    """Drawn where there are more rows: they come with an evaluation, the rest of a record with each step."""
    return figures.metric_lines(_values, {_info.run_id: _info}, "validation", dark=dark)


def _conflicts(run: Run) -> None:
    """The map of conflicts as it fills: of cosines where any is known, else of batch cosines."""
    assert run.info is not None
    if len(run.info.tasks) < 2 or run.info.method == "single":
        st.caption("No two tasks share an adapter here: there is nothing to conflict.")
        return
    frame = state.ask(queries.task_matrix, run, Selection())
    if frame.empty or frame["cos_before"].isna().all():
        st.caption("No gradients are recorded yet.")
        return
    known = bool(frame["cosine"].notna().any())
    figure = figures.task_heatmap(frame, run.info.task_names, "cosine" if known else "batch", dark=state.is_dark())
    st.plotly_chart(
        figure, theme=None, width="stretch", key=f"live-conflicts-{run.run_id}", alt=figures.describe(frame)
    )
    st.caption(
        "[Cosines](learn#corrected-cosine) of the tasks' gradients, without [batch noise](learn#noise); hatched: not"
        " enough data yet."
        if known
        else "Mean [batch cosines](learn#cosine), mostly [noise](learn#noise): there is not enough data yet for more."
    )
