"""Which pairs of tasks conflict, where and since when, does it show, and what is there to try?"""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.diagnose import Diagnosis, diagnose
from analysis.diagnosis.sentences import HOW_TO_READ, notes_on, title
from analysis.diagnosis.verdicts import Pair, worst_first
from analysis.library.runs import Run, list_runs, open_run
from analysis.output.data import outcome_table, verdict_table
from analysis.report.page import default_path, render
from app.shared import figure, glossary, links, places, state
from app.shared.verdict import card
from ortho_lora.record.judge import MARKS, TOLD

LIVE_SECONDS = 30.0
"""How often a run that trains is diagnosed again: it takes a second or more, and a verdict changes slowly."""
MOST_CARDS = 10
MOST_DRAWN = 40
"""Intervals in the figure: of fifty tasks there are 1225."""
ORDERS = {
    "Worst first": worst_first,
    "Lowest cosine first": lambda pair: min(branch.at_least for branch in pair.branches),
    "By name": lambda pair: (pair.task_i, pair.task_j),
}


def page() -> None:
    st.title("Diagnosis", help=glossary.help("verdict"))
    run = state.current_run()
    state.need_pairs(run)
    state.live(run, _body, LIVE_SECONDS)


def _body(run: Run) -> None:
    if not state.ask(queries.extent, run).pairs:
        st.info("No gradients are recorded yet: the first appear a few seconds after training starts.")
        return
    with st.spinner("Diagnosing"):
        found = _diagnosis(run)
    st.caption(state.plain(title(found)))
    _summary(found)
    _of_compared([one for one in state.compared_runs() if one.info is not None])
    _pairs(found)
    _outcomes(found)
    _suggestions(found)
    _downloads(run, found)
    with st.expander("How to read this", icon=":material/help:"):
        for sentence in (HOW_TO_READ, *notes_on(found.pairs), found.theorem):
            st.markdown(state.plain(sentence))


def _diagnosis(run: Run) -> Diagnosis:
    """Asked again also when another run ends or goes, as it may be one to compare the metrics with."""
    finished = tuple(sorted(one.run_id for one in list_runs(run.path.parent) if one.state == "finished"))
    found: Diagnosis = state.ask(diagnosis_beside, run, finished)
    return found


def diagnosis_beside(run: Path, finished: tuple[str, ...]) -> Diagnosis:
    """The diagnosis of a run while these are the finished runs of its directory."""
    return diagnose(run)


def _summary(found: Diagnosis) -> None:
    verdicts = {pair.verdict for pair in found.pairs}
    words = state.plain(found.summary)
    if "conflict" in verdicts:
        st.error(words, icon=":material/compress:")
    elif "not enough data" in verdicts:
        st.warning(words, icon=":material/hourglass_empty:")
    else:
        st.success(words, icon=":material/check:")


def _of_compared(runs: list[Run]) -> None:
    """The verdicts on the runs compared with, a line each."""
    for run in runs:
        if state.ask(queries.extent, run).pairs:
            st.markdown(f"**{state.plain(run.run_id)}**: {state.plain(_diagnosis(run).summary)}")


def _pairs(found: Diagnosis) -> None:
    st.subheader("Pair by pair", help=glossary.help("pair"))
    present = {pair.verdict for pair in found.pairs}
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        chosen = st.pills(
            "Verdicts",
            [verdict for verdict in MARKS if verdict in present],
            selection_mode="multi",
            key="verdicts",
            bind="query-params",
            help=f"None chosen: all of them. {glossary.help('verdict')}",
        )
    with right:
        order = st.selectbox("Order", list(ORDERS), key="verdict-order", bind="query-params")
    pairs: list[Pair] = sorted(
        (pair for pair in found.pairs if not chosen or pair.verdict in chosen), key=ORDERS[order]
    )
    frame = verdict_table(pairs)
    whole = frame[frame["branch"] == WHOLE].reset_index(drop=True)
    seen = "" if len(whole) else ", and the mean batch [cosine](learn#cosine), which is what the rule saw"
    st.caption(
        f"[Cosines](learn#corrected-cosine) with their 95% [intervals](learn#interval){seen}. The mark beside a name is"
        " the verdict."
    )
    drawn = whole if len(whole) else frame
    if len(drawn) > MOST_DRAWN:
        st.caption(f"Drawn are the first {MOST_DRAWN} of {len(drawn)}; the numbers have all.")
        drawn = drawn.head(MOST_DRAWN)
    figure.show("verdicts", partial(figures.strengths, drawn), frame, alt=_in_words(pairs))
    told = [pair for pair in pairs if pair.verdict in TOLD]
    every = f"Show all {len(told)} pairs"
    if len(told) > MOST_CARDS and not st.toggle(every, key="all-pairs", bind="query-params"):
        told = told[:MOST_CARDS]
    for pair in told:
        card(pair)


def _in_words(pairs: list[Pair]) -> str:
    return f"Cosine of each pair with its interval: {'; '.join(f'{p.task_i} – {p.task_j} {p.verdict}' for p in pairs)}."


def _outcomes(found: Diagnosis) -> None:
    st.subheader("Does it show in the metrics?")
    if not found.outcomes:
        st.markdown(
            "A probe evaluates nothing; only runs that train can tell."
            if found.probe
            else "Not known yet: it takes a finished `joint` run, and `single` or projected ones beside it, that differ"
            " in method and seed alone; with three seeds or more, also by how much."
        )
        links.link("launch", "Launch them")
        return
    st.caption("Gain over [joint training](learn#method), last validation values; an interval needs three seeds.")
    frame = outcome_table(found.outcomes)
    figure.numbers(
        "outcomes",
        frame,
        placeholder="–",
        column_config={name: st.column_config.NumberColumn(format="%+.3f") for name in ("difference", "low", "high")},
    )
    links.link("metrics", "The trajectories")


def _suggestions(found: Diagnosis) -> None:
    st.subheader("What to try")
    for suggestion in found.suggestions:
        with st.container(border=True):
            st.markdown(f"**{state.plain(suggestion.text)}**")
            st.caption(state.plain(suggestion.evidence))


def _downloads(run: Run, found: Diagnosis) -> None:
    st.subheader("Take it along")
    runs = [run, *(one for one in state.compared_runs() if one.info is not None)]
    made_of = [(one.run_id, state.version(one.path)) for one in runs]
    with st.container(horizontal=True):
        # It tells the command and the settings, with their paths.
        if not places.read_only() and st.button(
            "Make the report", icon=":material/description:", help="One HTML file that needs no other."
        ):
            with st.spinner("Making the report: this takes some seconds"):
                st.session_state["report"] = (made_of, state.ask_of_runs(report, runs))
        former, text = st.session_state.get("report", (None, ""))
        if former == made_of:
            st.download_button(
                "Download the report",
                text,
                default_path(runs).name,
                "text/html",
                icon=":material/download:",
                type="primary",
                on_click="ignore",
            )
        st.download_button(
            "JSON",
            lambda: json.dumps(found.document(), indent=1, allow_nan=False),
            f"{run.run_id}-diagnosis.json",
            "application/json",
            icon=":material/download:",
            on_click="ignore",
        )


def report(runs: list[Path]) -> str:
    """The report on these run directories, as HTML."""
    return render([open_run(run.parent, run.name) for run in runs], datetime.now(UTC))
