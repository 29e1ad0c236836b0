"""Which tasks conflict, since when, and is it more than noise?"""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import figures, queries
from analysis.figures.heatmaps import WITH_NUMBERS, View
from analysis.pair_words import more_steps, pair_sentence
from analysis.queries import Extent, Selection
from analysis.runs import Run
from app import figure, glossary, scale, state
from app.selection import Pair, choose_pair, select, select_pair

VIEWS: dict[str, View] = {"Noise-corrected cosine": "corrected", "Mean cosine": "cosine", "Conflict rate": "rate"}
HELP = {
    "corrected": (
        "The [gradient](learn#gradient) of a small batch is mostly [noise](learn#noise), and noise pulls every raw"
        " cosine towards 0; here it is [taken out](learn#corrected-cosine) with the help of half batches. A dash: the"
        " signal is not clear of the noise. *Italics*: tasks that draw the same texts share their noise, so their raw"
        " cosine is shown."
    ),
    "cosine": (
        "The plain mean over steps, layers and modules. The [gradient](learn#gradient) of a small batch is mostly"
        " [noise](learn#noise), and noise pulls every cosine towards 0: compare with the *italics* on the diagonal,"
        " the [same-task cosine](learn#same-task-cosine) of two halves of one task's own batch. No task can be"
        " expected to agree with another better than with itself."
    ),
    "rate": (
        "The [share of cosines](learn#conflict-rate) below zero. Two tasks that have nothing to do with each other"
        " scatter around 0, so about half of their cosines are negative **by chance**: a rate of 50% with a mean near"
        " 0 is what noise looks like."
    ),
}
MANY_TASKS = 8
"""More than this many have their matrices one moment at a time."""


def page() -> None:
    st.title("Conflicts", help=glossary.help("conflict", "cosine"))
    run = state.current_run()
    state.need_pairs(run)
    state.live(run, _body)


def _body(run: Run) -> None:
    if (selected := select_matrix(run)) is None:
        return
    extent, selection, matrix = selected
    st.subheader("Task by task", anchor=False)
    space = st.container()  # the map is drawn when the pair that it outlines is known
    st.subheader("One pair", anchor=False)
    pair = select_pair(extent, most_conflicting(matrix))
    with space:
        _matrix(run, extent, selection, matrix, pair)
    _pair(run, selection, matrix, pair)


def select_matrix(run: Run) -> tuple[Extent, Selection, pd.DataFrame] | None:
    """What is recorded, what is selected of it, and its `queries.task_matrix`; None where that is nothing: said so."""
    extent = state.ask(queries.extent, run)
    if not extent.pairs:
        st.info("No gradients are recorded yet: the first appear a few seconds after training starts.")
        return None
    selection = select(extent)
    matrix = state.ask(queries.task_matrix, run, selection)
    if matrix.empty:
        st.info("Nothing is recorded for this selection yet.")
        return None
    return extent, selection, matrix


def most_conflicting(matrix: pd.DataFrame) -> Pair:
    """The pair of `queries.task_matrix` with the lowest mean cosine."""
    lowest = matrix.sort_values("cos_before", kind="stable").iloc[0]
    return lowest["task_i"], lowest["task_j"]


def _matrix(run: Run, extent: Extent, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    corrected = matrix["corrected"].notna().any()
    views = [name for name, view in VIEWS.items() if corrected or view != "corrected"]
    if st.session_state.get("view") not in views:
        st.session_state.pop("view", None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.segmented_control(
            "Measure", views, default=views[0], required=True, key="view", bind="query-params"
        )
        view = VIEWS[chosen]
        when = (
            () if view == "corrected" else scale.choose_moments("All" if len(extent.tasks) <= MANY_TASKS else "Before")
        )
        limit = 1.0 if view == "rate" else scale.choose_limit()
    st.markdown(HELP[view])
    few = len(extent.tasks) <= WITH_NUMBERS
    st.caption(
        ("**Bold**" if few else "**×** (conflict) or **•** (agreement)")
        + f": the 95% [interval](learn#interval) excludes {'the 50% of chance' if view == 'rate' else '0'}; anything"
        " else may be noise, and of mere noise one cell in twenty is marked all the same. Red is conflict. Click a cell"
        " to follow its pair."
    )
    if not corrected:
        st.caption("There is no noise-corrected cosine yet: no half batches show a clear signal. More steps would.")
    noise = state.ask(queries.noise, run, selection)
    figure.show(
        "task-by-task",
        partial(
            figures.task_heatmap,
            matrix,
            list(extent.tasks),
            view,
            when=when,
            noise=noise,
            chosen=pair,
            limit=limit,
            dark=state.is_dark(),
        ),
        matrix,
        on_click=_follow,
    )
    with st.expander("What two half batches of the same task agree on", icon=":material/rule:"):
        st.caption(
            "The cosine of the gradients of two halves of one task's own batch: the most that any other task can be"
            " expected to reach. *signal* is the squared norm of its gradient without noise, empty where it is not"
            " clearly above zero."
        )
        figure.numbers("noise", noise)


def _follow(point: dict[str, Any]) -> None:
    one, other = point["customdata"]
    choose_pair((one, other))


def _pair(run: Run, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    dark = state.is_dark()
    needed = of_pair(state.ask(queries.batches_needed, run, selection), pair).set_index("branch")
    for row in of_pair(matrix, pair).to_dict("records"):
        with st.container(border=True):
            st.markdown(state.plain(pair_sentence(row)))
            _numbers(row, more_steps(needed.loc[row["branch"]]))
    st.markdown("**Window by window**: does it conflict all the time, and is that more than noise?")
    windows = of_pair(state.ask(queries.windows, run, selection), pair)
    figure.show("windows", partial(figures.window_intervals, windows, pair, dark=dark), windows)
    st.markdown("**Step by step**: the mean over all blocks; the band reaches from the lowest to the highest of them.")
    steps = state.ask(queries.pair_over_steps, run, pair, selection)
    figure.show("pair-over-steps", partial(figures.pair_lines, steps, pair, dark=dark), steps)


def of_pair(frame: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """The rows of one pair."""
    return frame[(frame["task_i"] == pair[0]) & (frame["task_j"] == pair[1])].reset_index(drop=True)


def _numbers(row: dict[Any, Any], more: str) -> None:
    shown = {
        "Noise-corrected": (_number(row["corrected"], "+.2f"), glossary.help("corrected-cosine")),
        "Mean cosine before": (
            _number(row["cos_before"], "+.2f"),
            f"Of batches, before projection. {glossary.help('cosine')}",
        ),
        "Mean cosine after": (_number(row["cos_after"], "+.2f"), "Of batches, after projection."),
        "Negative before": (_number(row["rate_before"], ".0%"), glossary.help("conflict-rate")),
        "Magnitude similarity": (
            _number(row["similarity"], ".2f"),
            glossary.help("magnitude-similarity"),
        ),
        "More steps until clear": (
            more,
            "More recorded steps until the interval of the mean cosine excludes 0, if they go on like these.",
        ),
    }
    with st.container(horizontal=True):
        for label, (value, words) in shown.items():
            st.metric(label, value, help=words, width="content")


def _number(value: float, style: str) -> str:
    return "–" if pd.isna(value) else f"{value:{style}}"
