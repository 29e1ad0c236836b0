"""The answer of the chosen run, or without one what gradient conflict is; and the latest runs."""

import streamlit as st

from analysis.library.runs import Run
from app.shared import links, places, state
from app.views import answer
from ortho_lora.errors import OrthoLoraError

LATEST = 5
MEANING = (
    "Several tasks share one LoRA [adapter](learn#adapter), and in every step each has a [gradient](learn#gradient):"
    " the way in which it wants the weights to move. Two tasks **[conflict](learn#conflict)** where their gradients"
    " point against each other, so where their [cosine](learn#cosine) is below 0: a step for one then undoes a part of"
    " the other's. Ortho-LoRA takes out of each gradient what points against another's; here you see which tasks"
    " conflict, whether that is more than chance, and whether [projecting](learn#projection) them helped."
)


def page() -> None:
    st.title("Which tasks fight over one adapter?")
    runs = places.runs()
    if run := _telling(runs):
        st.caption(_of(run))
        _await(runs, run)
        answer.show(run)
    else:
        st.markdown(MEANING)
        _ways()
        if not runs:
            st.info("There are no runs yet.")
            st.markdown(state.HOW_TO_START)
    _latest(runs)
    if run:
        with st.expander("New here?", icon=":material/school:"):
            st.markdown(MEANING)
            _ways()


def _telling(runs: list[Run]) -> Run | None:
    """The chosen run, if it tells how tasks agree, or the newest that does."""
    for run in sorted(runs, key=lambda run: run.run_id != st.session_state.get("run")):
        try:
            if answer.tells(run):
                return run
        except OrthoLoraError:
            continue  # its own pages say what is wrong with it
    return None


def _await(runs: list[Run], shown: Run) -> None:
    """Show the page anew as soon as the chosen run, which trains, tells anything."""
    chosen = str(st.session_state.get("run", ""))
    if any(run.active for run in runs if run.run_id == chosen != shown.run_id):
        st.fragment(run_every=state.LIVE_SECONDS)(_look)(chosen)


def _look(run_id: str) -> None:
    if _telling([run for run in places.runs() if run.run_id == run_id]):
        st.rerun()


def _of(run: Run) -> str:
    assert run.info is not None
    said = f"Run **{state.plain(run.run_id)}**: {state.plain(run.info.method)}, seed {run.info.seed}, {run.state}."
    chosen = st.session_state.get("run")
    if chosen in (None, run.run_id):
        return said
    return f"{said} Of **{state.plain(chosen)}**, which is chosen, nothing is recorded of how tasks agree."


def _ways() -> None:
    ways = {
        "learn": ("Learn", "Drag two gradients, and see the angle, the projection and the update answer."),
        "launch": ("Launch", "Train an adapter on packaged tasks or on your own: the demo takes two minutes."),
    }
    for name, (label, words) in ways.items():
        if links.find(name):
            with st.container(border=True, gap="xsmall"):
                links.link(name, f"**{label}**")
                st.caption(words)


def _latest(runs: list[Run]) -> None:
    if not runs:
        return
    st.subheader("Latest runs")
    st.caption("Choose one, and all pages show it.")
    for run in runs[:LATEST]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            name = state.plain(run.run_id)
            st.button(name, key=f"open-{run.run_id}", on_click=state.choose_run, args=(run.run_id,), type="tertiary")
            method = f" · {state.plain(run.info.method)}, seed {run.info.seed}" if run.info else ""
            st.caption(f"{state.SYMBOLS[run.state]} {run.state}{method}", width="content")
    links.link("runs", "All runs")
