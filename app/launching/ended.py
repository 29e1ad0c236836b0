"""The runs that ended lately, and how to go on with them."""

from collections.abc import Collection

import streamlit as st

from analysis.library.runs import Run, final_metrics, list_runs
from app.launching.buttons import again_button, resume_button, show_button
from app.shared import state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

LATELY = 3
"""Runs that have ended and are still shown here."""


def show(under_way: Collection[str]) -> None:
    """The latest of them, without those that are gone on with."""
    ended = [run for run in list_runs(default_runs_dir()) if not run.active and run.info is not None]
    if not (lately := [run for run in ended if run.run_id not in under_way][:LATELY]):
        return
    with st.expander("Ended lately", icon=":material/history:", expanded=True):
        for run in lately:
            _end(run)


def _end(run: Run) -> None:
    assert run.info is not None
    words, buttons = st.columns(2, vertical_alignment="center")
    steps = f" after {run.status.progress}" if run.status and run.state != "finished" else ""
    values = "" if run.info.probe else _final(run)
    words.markdown(f"{state.SYMBOLS[run.state]} **{state.plain(run.run_id)}** {run.state}{steps}{values}")
    if run.state == "failed" and run.status and run.status.message:
        words.caption(state.plain(run.status.message))
    with buttons.container(horizontal=True, horizontal_alignment="right"):
        resume_button(run)
        again_button(run.run_id)
        show_button(run.run_id)


def _final(run: Run) -> str:
    assert run.info is not None
    try:
        found = final_metrics(run.path, run.info.tasks)
    except OrthoLoraError:  # opening the run tells the problem
        return ""
    listed = " · ".join(f"{state.plain(name)} {value:.2f}" for name, value in found.items())
    return f": {listed}" if listed else ""
