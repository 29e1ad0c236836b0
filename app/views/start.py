"""What gradient conflict is, in one picture, and the ways on."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement, measured, worst_row
from analysis.library.runs import Run, list_runs
from app.launching import launcher
from app.launching.launcher import Launch
from app.shared import figure, links, state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

LATEST = 5
SHIPPED = {
    "branch": "both", "task_i": "tweets", "task_j": "spam-flip0.7", "verdict": "conflict", "snapshot": 20, "steps": 0,
    "q": 0.0002, "cosine": -0.16, "cosine_low": -0.28, "cosine_high": -0.09, "more": 0.0, "shares_texts": False,
}  # fmt: skip
"""As of `queries.task_matrix`, of the demo run (examples/demo.yaml, seed 0), for where there is no run."""


def page() -> None:
    st.title("Which tasks fight over one adapter?")
    st.markdown(
        "Several tasks share one LoRA [adapter](learn#adapter), and in every step each has a"
        " [gradient](learn#gradient): the way in which it wants the weights to move. Two tasks"
        " **[conflict](learn#conflict)** where their gradients point against each other, so where their"
        " [cosine](learn#cosine) is below 0: a step for one then undoes a part of the other's. Ortho-LoRA takes out of"
        " each gradient what points against another's; here you see which tasks conflict, whether that is more than"
        " chance, and whether [projecting](learn#projection) them helped."
    )
    runs = list_runs(default_runs_dir())
    left, right = st.columns([3, 2], gap="large")
    with left:
        _picture(runs)
    with right:
        _ways(runs)
    busy = any(run.active for run in runs) or any(launch.alive for launch in launcher.launches(default_runs_dir()))
    st.fragment(run_every=state.LIVE_SECONDS if busy else None)(_runs)()


def _picture(runs: list[Run]) -> None:
    run, row = _worst(runs)
    known = Agreement.of(row)
    one, other = row["task_i"], row["task_j"]
    drawn = next(of for of in (known.cosine, known.batch_cosine, known.at_least) if of is not None)
    names = (state.plain(one), state.plain(other))
    st.subheader(" against ".join(names) if known.verdict == "conflict" else f"{' and '.join(names)}: {known.verdict}")
    frame = pd.DataFrame([row])
    told = f"The gradients of {one} and {other} as arrows whose cosine is {drawn:+.2f}, before and after projection."
    figure.show("conflict", partial(figures.conflict_arrows, drawn, (one, other)), frame, alt=told)
    source = f"run **{state.plain(run.run_id)}**" if run else "the demo run that comes with this project"
    which = "" if known.cosine is not None else f" Drawn at {drawn:+.2f}."
    where = "over all steps of" if known.snapshot is None else f"by snapshots up to step {known.snapshot} of"
    st.caption(
        f"Measured {where} {source}. {state.plain(verdict_sentence(known, row['shares_texts']))}{which} Both"
        " arrows are drawn of length 1, so only their angle is data."
    )


def _worst(runs: list[Run]) -> tuple[Run | None, dict[Any, Any]]:
    """The worst verdict on a pair of the chosen run, or of the newest that has pairs, else that of the one shipped."""
    for run in sorted(runs, key=lambda run: run.run_id != st.session_state.get("run")):
        if run.info is None or run.info.method == "single" or len(run.info.tasks) < 2:
            continue
        try:
            found = state.ask(queries.task_matrix, run, queries.Selection())
        except OrthoLoraError:
            continue  # its own pages say what is wrong with it
        found = measured(found)
        if len(found):
            real = found[~found["shares_texts"].astype(bool)]  # a twin is no news
            return run, worst_row(real if len(real) else found)
    return None, SHIPPED


def _ways(runs: list[Run]) -> None:
    st.subheader("Three ways on")
    ways = [
        ("Drag two gradients, and see the angle, the projection and the update answer.", {"learn": "Learn"}),
        ("Train an adapter on packaged tasks or on your own: the demo takes two minutes.", {"launch": "Launch"}),
    ]
    if runs:
        words = "Which pairs conflict, in which layers, since when; and a verdict on each, with what it rests on."
        ways.append((words, {"conflicts": "Explore", "diagnosis": "Diagnosis"}))
    for words, pages in ways:
        if any(map(links.find, pages)):
            with st.container(border=True, gap="xsmall"):
                with st.container(horizontal=True):
                    for name, label in pages.items():
                        links.link(name, f"**{label}**")
                st.caption(words)
    if not runs:
        st.info("There are no runs yet.")
        st.markdown(state.HOW_TO_START)


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
