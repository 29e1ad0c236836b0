"""What trains, starts or waits, in the sidebar of every page; the page is shown anew when one begins or ends."""

import streamlit as st

from analysis.library.runs import Run, list_runs
from app.launching import launcher
from app.launching.launcher import Launch
from app.shared import places, state
from ortho_lora.record.schema import default_runs_dir

MOST = 3
"""Runs that are told of; the Launch page has them all."""


def show() -> None:
    """A line for each of them, kept up to date; nothing where nothing is under way."""
    before = _names(*_look())
    if before:
        st.fragment(run_every=state.LIVE_SECONDS)(_watch)(before)


def _watch(before: list[tuple[str, str]]) -> None:
    runs, launches = _look()
    if _names(runs, launches) != before:
        st.rerun()
    for run in runs[:MOST]:
        _training(run)
    for launch in launches[: MOST - len(runs[:MOST])]:
        st.caption(f"{state.SYMBOLS.get(launch.state, state.SYMBOLS['running'])} {state.plain(launch.run_id)}:"
                   f" {launch.state}")  # fmt: skip
    if (more := len(before) - MOST) > 0:
        st.caption(f"and {more} more")


def _training(run: Run) -> None:
    status = run.status
    assert status is not None
    doing = f"{state.plain(status.phase)}, {status.progress}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.progress(
            min(status.step / status.total, 1.0) if status.total else 0.0,
            f"{state.SYMBOLS[run.state]} **{state.plain(run.run_id)}**: {doing}",
        )
        if run.run_id != st.session_state.get("run") and st.button(
            "Show", key=f"under-way-{run.run_id}", type="tertiary", on_click=state.choose_run, args=(run.run_id,)
        ):
            st.rerun()  # all of the page, not this fragment


def _look() -> tuple[list[Run], list[Launch]]:
    """The runs that train, and what is to train."""
    runs_dir = default_runs_dir()
    launches = [] if places.read_only() else [one for one in launcher.launches(runs_dir) if one.alive]
    return [run for run in list_runs(runs_dir) if run.active and run.status], launches


def _names(runs: list[Run], launches: list[Launch]) -> list[tuple[str, str]]:
    return [(run.run_id, "training") for run in runs] + [(launch.run_id, launch.state) for launch in launches]
