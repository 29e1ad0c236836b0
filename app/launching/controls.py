"""What can be done with the run that is looked at: stop it, go on with it, run it again, measure at its checkpoint."""

import streamlit as st

from analysis.library.runs import Run, list_runs
from app.launching import launcher
from app.launching.buttons import attempt, resume_button, stop_button
from app.launching.launcher import Launch
from app.launching.progress import waiting
from app.shared import links, places, state
from ortho_lora.record.schema import default_runs_dir


def show(run: Run) -> None:
    """What makes sense of the run now, and how what was launched of it gets on."""
    launches = _launches(run)
    for launch in launches:
        waiting(launch)
    with st.container(horizontal=True, vertical_alignment="center"):
        if run.elsewhere:
            st.caption(f"It goes on {state.plain(run.elsewhere)}. Whether it still does can only be seen there.")
        elif run.active:
            stop_button(run.run_id, "Stop", asked=launcher.stop_asked(run))
        elif not any(launch.alive and launch.run_id == run.run_id for launch in launches):
            resume_button(run)
        _measure_buttons(run)
        # A training loop of one's own has no settings that the form could take.
        if run.info and "tasks" in run.info.config:
            links.link("launch", "Run again with changes", again=run.run_id)
    _followed(run, launches)


def measuring(run: Run) -> None:
    """What can be measured at the run's checkpoint, and how that gets on."""
    launches = _launches(run)
    for one in launches:
        if one.run_id != run.run_id:
            waiting(one)
    with st.container(horizontal=True, vertical_alignment="center"):
        _measure_buttons(run)
    _followed(run, launches)


def _followed(run: Run, launches: list[Launch]) -> None:
    names = [one.run_id for one in _measuring(run)]
    going_on = run.active or names or any(launch.alive for launch in launches)
    st.fragment(run_every=state.LIVE_SECONDS if going_on else None)(_follow)(run, launches, names)


def _follow(run: Run, launches: list[Launch], names: list[str]) -> None:
    """What measures; the page anew where what can be done has changed."""
    now = next((one for one in places.runs() if one.run_id == run.run_id), None)
    found = _measuring(run)
    if now is None or (now.state, _launches(run), [one.run_id for one in found]) != (run.state, launches, names):
        st.rerun()
    for one in found:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            done = one.status.progress if one.status else ""
            words = f"**{state.plain(one.run_id)}** · {state.SYMBOLS[one.state]} {one.state}, {done}"
            st.markdown(words, width="stretch")
            stop_button(one.run_id, "Stop", asked=launcher.stop_asked(one))


def _measure_buttons(run: Run) -> None:
    if not launcher.can_probe(run):
        return
    probe = st.button(
        "Probe its checkpoint",
        key=f"probe-{run.run_id}",
        icon=":material/troubleshoot:",
        help="Take a snapshot of how its tasks' gradients agree there, until every pair's cosine is known within"
        f" ±{launcher.HALF_WIDTH:g}, of at most {launcher.MOST_BATCHES} batches of every task. Nothing is trained, and"
        " the run stays as it is; the probe is another run.",
    )
    look_ahead = st.button(
        "Look ahead from it",
        key=f"lookahead-{run.run_id}",
        icon=":material/footprint:",
        help="Take a few real steps from there, with and without each task, and see what that did to the validation"
        " losses. The run stays as it is; the lookahead is another run.",
    )
    if probe or look_ahead:
        attempt(launcher.probe if probe else launcher.look_ahead, run)


def _launches(run: Run) -> list[Launch]:
    """Processes that are to go on with the run or to measure there, and wait, load, or did not get that far."""
    every = launcher.launches(default_runs_dir())
    return [one for one in every if one.run_id == run.run_id or launcher.measures(one.run_id, run.run_id)]


def _measuring(run: Run) -> list[Run]:
    """Its probes and lookaheads that measure now."""
    every = list_runs(default_runs_dir())
    return [one for one in every if one.active and one.info and one.info.probe and one.info.probe.run == run.run_id]
