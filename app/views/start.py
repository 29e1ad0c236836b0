"""The answer of the chosen run, or without one what gradient conflict is, in one picture; and the latest runs."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement
from analysis.library.runs import Run, list_runs
from app.launching import launcher
from app.launching.launcher import Launch
from app.shared import figure, links, state
from app.views import answer
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

LATEST = 5
SHIPPED: dict[str, Any] = {
    "branch": "both", "task_i": "tweets", "task_j": "spam-flip0.7", "verdict": "conflict", "snapshot": 20, "steps": 0,
    "q": 0.0002, "cosine": -0.16, "cosine_low": -0.28, "cosine_high": -0.09, "more": 0.0, "shares_texts": False,
}  # fmt: skip
"""As of `queries.task_matrix`, of the demo run (examples/demo.yaml, seed 0), for where there is no run."""
MEANING = (
    "Several tasks share one LoRA [adapter](learn#adapter), and in every step each has a [gradient](learn#gradient):"
    " the way in which it wants the weights to move. Two tasks **[conflict](learn#conflict)** where their gradients"
    " point against each other, so where their [cosine](learn#cosine) is below 0: a step for one then undoes a part of"
    " the other's. Ortho-LoRA takes out of each gradient what points against another's; here you see which tasks"
    " conflict, whether that is more than chance, and whether [projecting](learn#projection) them helped."
)


def page() -> None:
    st.title("Which tasks fight over one adapter?")
    runs = list_runs(default_runs_dir())
    if run := _telling(runs):
        st.caption(_of(run))
        answer.show(run)
    else:
        st.markdown(MEANING)
        left, right = st.columns([3, 2], gap="large")
        with left:
            _picture()
        with right:
            _ways()
            if not runs:
                st.info("There are no runs yet.")
                st.markdown(state.HOW_TO_START)
    busy = any(run.active for run in runs) or any(launch.alive for launch in launcher.launches(default_runs_dir()))
    st.fragment(run_every=state.LIVE_SECONDS if busy else None)(_runs)()
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


def _of(run: Run) -> str:
    assert run.info is not None
    said = f"Run **{state.plain(run.run_id)}**: {state.plain(run.info.method)}, seed {run.info.seed}, {run.state}."
    chosen = st.session_state.get("run")
    if chosen in (None, run.run_id):
        return said
    return f"{said} Of **{state.plain(chosen)}**, which is chosen, nothing is recorded of how tasks agree."


def _picture() -> None:
    known, tasks = Agreement.of(SHIPPED), (SHIPPED["task_i"], SHIPPED["task_j"])
    drawn = SHIPPED["cosine"]
    st.subheader(" against ".join(map(state.plain, tasks)))
    told = (
        f"The gradients of {' and '.join(tasks)} as arrows whose cosine is {drawn:+.2f}, before and after projection."
    )
    figure.show("conflict", partial(figures.conflict_arrows, drawn, tasks), pd.DataFrame([SHIPPED]), alt=told)
    st.caption(
        f"Measured by snapshots up to step {known.snapshot} of the demo run that comes with this project."
        f" {state.plain(verdict_sentence(known, SHIPPED['shares_texts']))} Both arrows are drawn of length 1, so only"
        " their angle is data."
    )


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


def _runs() -> None:
    runs = list_runs(default_runs_dir())
    for run in (run for run in runs if run.active and run.status):
        status = run.status
        assert status is not None
        eta = f", about {status.eta_seconds:.0f} s left" if status.eta_seconds is not None else ""
        doing = f"{state.plain(status.phase)}, {status.progress}{eta}"
        st.progress(
            min(status.step / status.total, 1.0) if status.total else 0.0,
            f"{state.SYMBOLS[run.state]} **{state.plain(run.run_id)}**: {doing}",
        )
    for launch in launcher.launches(default_runs_dir()):
        _coming(launch)
    if not runs:
        return
    st.subheader("Latest runs")
    st.caption("Choose one, and all pages show it.")
    for run in runs[:LATEST]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if st.button(
                state.plain(run.run_id), key=f"open-{run.run_id}", on_click=_choose, args=(run.run_id,), type="tertiary"
            ):
                st.rerun()  # all of the page, not this fragment
            method = f" · {state.plain(run.info.method)}, seed {run.info.seed}" if run.info else ""
            st.caption(f"{state.SYMBOLS[run.state]} {run.state}{method}", width="content")
    links.link("runs", "All runs")


def _coming(launch: Launch) -> None:
    """A run that was launched, and has not begun to record."""
    name, symbol = state.plain(launch.run_id), state.SYMBOLS.get(launch.state, state.SYMBOLS["running"])
    place = f", at place {launch.place}" if launch.place is not None else ""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"{symbol} **{name}**: {launch.state}{place}", width="content")
        if not launch.alive:
            links.link("launch", "What it said")


def _choose(run_id: str) -> None:
    st.session_state["run"] = run_id
