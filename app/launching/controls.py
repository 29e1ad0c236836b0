"""What can be done with the run that is looked at: stop it, go on with it, run it again, probe it."""

import streamlit as st

from analysis.library.runs import Run, list_runs
from app.launching import launcher
from app.launching.buttons import resume_button, stop_button
from app.launching.launcher import Launch
from app.launching.progress import waiting
from app.shared import links, state
from ortho_lora.errors import OrthoLoraError
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
        if launcher.can_probe(run):
            _probe_button(run)
        # A training loop of one's own has no settings that the form could take.
        if run.info and "tasks" in run.info.config:
            links.link("launch", "Run again with changes", again=run.run_id)
    probes = _probes(run)
    going_on = run.active or probes or any(launch.alive for launch in launches)
    names = [probe.run_id for probe in probes]
    st.fragment(run_every=state.LIVE_SECONDS if going_on else None)(_follow)(run, launches, names)


def _follow(run: Run, launches: list[Launch], names: list[str]) -> None:
    """The probes that measure; the page anew where what can be done has changed."""
    now = next((one for one in list_runs(default_runs_dir()) if one.run_id == run.run_id), None)
    probes = _probes(run)
    if now is None or (now.state, _launches(run), [probe.run_id for probe in probes]) != (run.state, launches, names):
        st.rerun()
    for probe in probes:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            done = probe.status.progress if probe.status else ""
            words = f"**{state.plain(probe.run_id)}** · {state.SYMBOLS[probe.state]} {probe.state}, {done}"
            st.markdown(words, width="stretch")
            stop_button(probe.run_id, "Stop", asked=launcher.stop_asked(probe))


def _probe_button(run: Run) -> None:
    if not st.button(
        "Probe its checkpoint",
        key=f"probe-{run.run_id}",
        icon=":material/troubleshoot:",
        help="Take a snapshot of how its tasks' gradients agree there, until every pair's cosine is known within"
        f" ±{launcher.HALF_WIDTH:g}, of at most {launcher.MOST_BATCHES} batches of every task. Nothing is trained, and"
        " the run stays as it is; the probe is another run.",
    ):
        return
    try:
        launcher.probe(run.path)
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    else:
        st.rerun()


def _launches(run: Run) -> list[Launch]:
    """Processes that are to go on with the run or to probe it, and wait, load, or did not get that far."""
    every = launcher.launches(default_runs_dir())
    return [one for one in every if one.run_id == run.run_id or launcher.probes(one.run_id, run.run_id)]


def _probes(run: Run) -> list[Run]:
    """Its probes that measure now."""
    every = list_runs(default_runs_dir())
    return [one for one in every if one.active and one.info and one.info.probe and one.info.probe.run == run.run_id]
