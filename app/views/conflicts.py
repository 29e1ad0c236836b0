"""Which tasks conflict, in which layers, and since when?"""

from typing import Literal

import streamlit as st

from analysis import figures, queries
from analysis.runs import Run
from app import state

VIEWS: dict[str, Literal["corrected", "cosine", "rate"]] = {
    "Noise-corrected cosine": "corrected",
    "Mean cosine": "cosine",
    "Conflict rate": "rate",
}
HELP = {
    "corrected": (
        "The cosine of the gradients without their batch noise, estimated from half batches. Where the signal is not"
        " clearly above zero nothing is shown: *not enough signal*. Tasks that draw the same texts share their noise,"
        " so their mean cosine is the right one to read."
    ),
    "cosine": (
        "The plain mean over steps, layers and modules. Small batches are mostly noise, and noise pulls every cosine"
        " towards 0: compare with the numbers in italics on the diagonal, the cosine of two halves of"
        " one task's own batch: a task cannot be expected to agree with another better than with itself."
    ),
    "rate": (
        "The share of cosines below zero. Two tasks that have nothing to do with each other scatter around 0, so about"
        " half of their cosines are negative **by chance**: a rate of 50% with a mean near 0 is what noise looks like."
    ),
}


def page() -> None:
    st.title("Conflicts")
    run = state.current_run()
    assert run.info is not None
    if run.info.method == "single":
        st.info("This run trained one adapter for each task: no gradients meet, so there is nothing to compare.")
        st.stop()
    if len(run.info.tasks) < 2:
        st.info("This run has one task: a conflict needs two.")
        st.stop()
    state.live(run, _body)


def _body(run: Run) -> None:
    extent = state.ask(queries.extent, run)
    if not extent.pairs:
        st.info("No gradients are recorded yet: the first appear a few seconds after training starts.")
        return
    selection = state.select_steps_and_layers(extent)
    dark = state.is_dark()

    matrix = state.ask(queries.task_matrix, run, selection)
    noise = state.ask(queries.noise, run, selection)
    views = [name for name, value in VIEWS.items() if value != "corrected" or matrix["corrected"].notna().any()]
    st.subheader("Task by task")
    view = VIEWS[
        st.segmented_control(
            "Show",
            views,
            default="Mean cosine",
            required=True,
            key="view",
            bind="query-params",
            label_visibility="collapsed",
        )
    ]
    st.markdown(HELP[view])
    st.caption(
        "An adapted layer adds B A x to its output; *branch A* and *branch B* are its two matrices. *Before* and"
        " *after* projection are on one scale; red is conflict."
    )
    if "corrected" not in map(VIEWS.get, views):
        st.caption(
            "The noise-corrected cosine is not shown: the half batches give no clear signal yet. More steps would."
        )
    state.show_figure(
        "task-by-task",
        lambda: figures.task_heatmap(matrix, list(extent.tasks), view, noise=noise, dark=dark),
        matrix,
    )
    with st.expander("What two half batches of the same task agree on", icon=":material/rule:"):
        st.caption(
            "The cosine of the gradients of two halves of one task's own batch: a task cannot be expected to agree with"
            " another better than with itself. *signal* is the squared norm of its gradient without noise, empty where"
            " it is not clearly above zero."
        )
        st.dataframe(noise, hide_index=True, key="table-noise")

    st.subheader("Layer by layer")
    sharpest = matrix.sort_values("cos_before")[["task_i", "task_j"]].itertuples(index=False, name=None)
    pair = state.select_pair(extent, next(sharpest))
    layers = state.ask(queries.layer_step, run, pair, selection)
    state.show_figure("layer-by-step", lambda: figures.layer_step_heatmap(layers, pair, dark=dark), layers)
    steps = state.ask(queries.pair_over_steps, run, pair, selection)
    state.show_figure("pair-over-steps", lambda: figures.pair_lines(steps, pair, dark=dark), steps)
