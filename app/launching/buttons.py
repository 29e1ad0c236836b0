"""What can be done with a run that was launched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from analysis.library.runs import Run
from app.launching import launcher
from app.launching.form import fill_form
from app.shared import links, places, state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import read_ticket
from ortho_lora.record.schema import default_runs_dir
from ortho_lora.record.study import is_study


def attempt(action: Callable[[Path], Any], run: Run) -> None:
    """Launch something of a run, and show the page anew; or say why not."""
    try:
        action(run.path)
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    else:
        st.rerun()


def stop_button(run_id: str, label: str, *, asked: bool) -> None:
    """A button that ends a run after its step, or takes it out of the queue."""
    if st.button(label, key=f"stop-{run_id}", icon=":material/stop:", disabled=asked):
        try:
            launcher.stop(default_runs_dir(), run_id)
        except OrthoLoraError as error:
            st.toast(state.plain(str(error)), icon=":material/error:")
        st.rerun()


def resume_button(run: Run) -> None:
    """A button that lets a run go on from its checkpoint, where it can."""
    if launcher.can_resume(run) and st.button("Resume", key=f"resume-{run.run_id}", icon=":material/resume:"):
        attempt(launcher.resume, run)


def try_button(run: Run) -> None:
    """A button that has a study train what a run's snapshots advise, beside what it is to be compared with."""
    name, runs_dir = launcher.name_of_trial(run.run_id), places.workplace(run)
    study, ticket = runs_dir / name, read_ticket(runs_dir, name)
    if ticket is not None and ticket.alive and not places.read_only():
        stop_button(name, "Stop the study", asked=ticket.stop_asked)
        st.fragment(run_every=state.LIVE_SECONDS)(_await_end)(runs_dir, name)
    elif not places.read_only() and st.button(
        "Go on with the study" if is_study(study) else "Try it: train a study",
        key=f"try-{run.run_id}",
        icon=":material/science:",
        help="The advice, joint and single training, and random groups of the same sizes, with common seeds; it waits"
        f" for its turn, and stands in {study}.",
    ):
        attempt(launcher.try_advice, run)
    if is_study(study):
        links.link("study", "What came of it", study=name)


def _await_end(runs_dir: Path, name: str) -> None:
    """Show the page anew when a study has ended, as the run that it is of does nothing meanwhile."""
    ticket = read_ticket(runs_dir, name)
    if ticket is None or not ticket.alive:
        st.rerun()


def show_button(run_id: str) -> None:
    """A button that makes a run the one that all pages show."""
    st.button(
        "Show",
        key=f"show-{run_id}",
        icon=":material/visibility:",
        on_click=state.choose_run,
        args=(run_id,),
        disabled=st.session_state.get("run") == run_id,
        help="Make it the run that all pages show.",
    )


def again_button(run_id: str) -> None:
    """A button that fills the form with the settings of a run."""
    st.button(
        "Run again with changes",
        key=f"again-{run_id}",
        icon=":material/edit:",
        on_click=fill_from_run,
        args=(run_id,),
        help="Fill the form below with its settings.",
    )


def fill_from_run(run_id: str) -> None:
    """Fill the form with the settings of a run, or of a launch that made none; for a callback."""
    try:
        settings = launcher.settings(places.home(run_id), run_id)
    except OrthoLoraError as error:
        st.toast(state.plain(str(error)), icon=":material/error:")
        return
    fill_form(settings, run_id)
    st.toast(f"The form has the settings of **{state.plain(run_id)}**.", icon=":material/edit:")
