"""Which tasks conflict, since when, and is it more than chance?"""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement, worst_pair
from analysis.figures.heatmaps import WITH_NUMBERS, View
from analysis.library.names import number
from analysis.library.runs import Run
from app.shared import figure, glossary, scale, state
from app.shared.selection import Pair, choose_pair, of_pair, select_matrix, select_pair

VIEWS: dict[str, View] = {"Cosine": "cosine", "Batch cosine": "batch", "Share negative": "rate"}
HELP = {
    "cosine": (
        "The [cosine](learn#corrected-cosine) of the tasks' mean [gradients](learn#gradient), without batch"
        " [noise](learn#noise); the [verdict](learn#verdict) is on it. Hatched: only its interval is known."
    ),
    "batch": (
        "The plain mean over steps, layers and modules: what the rule saw. Most of a batch's"
        " [gradient](learn#gradient) is [noise](learn#noise), which pulls every cosine towards 0: compare with the"
        " *italics* on the diagonal, the [same-task cosine](learn#same-task-cosine) of two halves of one task's batch."
    ),
    "rate": "The [share of cosines](learn#conflict-rate) below zero; of unrelated tasks about half **by chance**.",
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
    pair = select_pair(extent, worst_pair(matrix))
    with space:
        _matrix(run, extent, selection, matrix, pair)
    _pair(run, selection, matrix, pair)


def _matrix(run: Run, extent: Extent, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.segmented_control(
            "Measure", list(VIEWS), default=next(iter(VIEWS)), required=True, key="view", bind="query-params"
        )
        view = VIEWS[chosen]
        when = () if view == "cosine" else scale.choose_moments("All" if len(extent.tasks) <= MANY_TASKS else "Before")
        limit = 1.0 if view == "rate" else scale.choose_limit()
    st.markdown(HELP[view])
    few = len(extent.tasks) <= WITH_NUMBERS
    st.caption(
        f"{'**Bold**' if few else '**▼** or **▲**'}: the verdict on what is selected is conflict or aligned, corrected"
        " for the number of pairs. Red is conflict. Click a cell to follow its pair."
    )
    noise = state.ask(queries.noise, run, selection)
    figure.show(
        "task-by-task",
        partial(
            figures.task_heatmap, matrix, list(extent.tasks), view, when=when, noise=noise, chosen=pair, limit=limit
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
    for row in of_pair(matrix, pair).to_dict("records"):
        with st.container(border=True):
            known = Agreement.of(row)
            st.markdown(state.plain(verdict_sentence(known, row["shares_texts"])))
            _numbers(known, row)
    st.markdown("**Window by window**: is it so all the time?")
    windows = of_pair(state.ask(queries.windows, run, selection), pair)
    figure.show("windows", partial(figures.window_intervals, windows, pair), windows)
    st.markdown("**Step by step**: batch cosines, mean over blocks; the band reaches from the lowest to the highest.")
    steps = state.ask(queries.pair_over_steps, run, pair, selection)
    figure.show("pair-over-steps", partial(figures.pair_lines, steps, pair), steps)


def _numbers(known: Agreement, row: dict[Any, Any]) -> None:
    shown = {
        "Cosine": (number(known.cosine), glossary.help("corrected-cosine")),
        "Batch cosine": (number(known.batch_cosine), f"Mean before the rule. {glossary.help('cosine')}"),
        "Batch cosine after": (number(row["cos_after"]), "Mean after the rule."),
        "Negative": (number(known.conflict_rate, ".0%"), glossary.help("conflict-rate")),
        "Magnitude similarity": (number(row["similarity"], ".2f"), glossary.help("magnitude-similarity")),
    }
    with st.container(horizontal=True):
        for label, (value, words) in shown.items():
            st.metric(label, value, help=words, width="content")
