"""How often and how much does the rule change the gradients?"""

import streamlit as st

from analysis import figures, queries
from analysis.runs import Run
from app import state


def page() -> None:
    st.title("Projection")
    run = state.current_run()
    assert run.info is not None
    if run.info.method == "single" or len(run.info.tasks) < 2:
        st.info("Each adapter of this run has one task: there is nothing to project.")
        st.stop()
    state.live(run, _body)


def _body(run: Run) -> None:
    assert run.info is not None
    extent = state.ask(queries.extent, run)
    if not extent.pairs:
        st.info("No gradients are recorded yet: the first appear a few seconds after training starts.")
        return
    if run.info.rule == "sum":
        st.info(
            "This run adds the gradients up as they are and projects nothing: frequencies and removed shares are 0, and"
            " every weight is 1. Choose a run with `ortho-lora` or `pcgrad` to see projection at work."
        )
    else:
        scope = {"block": "each A and each B matrix", "module": "each adapted layer", "model": "the whole model"}
        st.markdown(
            f"Rule **{state.plain(run.info.rule)}**, applied to {scope.get(run.info.scope, 'the blocks')} on its own."
            " A projection takes out of a task's gradient what points against another's; it is made whenever their"
            " product is negative, noise or not: of gradients that have nothing to do with each other, about half."
        )
    selection = state.select_steps_and_layers(extent)
    dark = state.is_dark()
    tasks = list(extent.tasks)

    st.subheader("Over the steps")
    over_steps = state.ask(queries.projection_over_steps, run, selection)
    state.show_figure("projection-steps", lambda: figures.projection_steps(over_steps, dark=dark), over_steps)

    st.subheader("Who is projected against whom")
    by_pair = state.ask(queries.projection_by_pair, run, selection)
    state.show_figure("projection-pairs", lambda: figures.projection_pairs(by_pair, tasks, dark=dark), by_pair)

    st.subheader("In which layers")
    by_layer = state.ask(queries.projection_by_layer, run, selection)
    state.show_figure("projection-layers", lambda: figures.projection_layers(by_layer, dark=dark), by_layer)

    st.subheader("What it does to the update")
    st.markdown(
        "The update is a weighted sum of the tasks' own gradients. Without projection every weight is 1; a weight above"
        " 1 means that others, projected against this task, now carry a part of its gradient."
    )
    weights = state.ask(queries.weights, run, selection)
    state.show_figure("weights", lambda: figures.weights_over_steps(weights, dark=dark), weights)
