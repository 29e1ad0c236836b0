"""How often and how much does the rule change the gradients, what does it leave, and what would another have done?"""

from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.conflict.replay import NOTE
from analysis.conflict.snapshots import WHOLE
from analysis.figures.dots import MOST
from analysis.figures.words import what_remains
from analysis.library.names import method_name
from analysis.library.runs import Run
from analysis.output.data import replay_frame
from app.shared import figure, glossary, state
from app.shared.selection import select
from ortho_lora.record.schema import Identity

PARTS = {"block": "each A and each B matrix", "module": "each adapted layer", "model": "the whole model"}
DIRECTED: dict[str, Literal["frequency", "removed"]] = {"How often": "frequency", "How far": "removed"}


def page() -> None:
    st.title("Projection", help=glossary.help("projection"))
    run = state.current_run()
    assert run.info is not None
    if run.info.method == "single" or len(run.info.tasks) < 2:
        st.info("Each adapter of this run has one task: there is nothing to project.")
        st.stop()
    # Outside of what is shown again while the run trains: a replay takes seconds.
    if run.info.rule == "sum":
        st.info(
            "This run adds the gradients up as they are and projects nothing. What projection would have done to the"
            " same gradients is next; to see it at work, choose a run with `ortho-lora` or `pcgrad`."
        )
        _replay(run, run.info)
        state.live(run, _unprojected)
    else:
        state.live(run, _projected)
        _replay(run, run.info)


def _unprojected(run: Run) -> None:
    if extent := _recorded(run):
        _remaining(run, select(extent))


def _projected(run: Run) -> None:
    assert run.info is not None
    st.markdown(
        f"[Rule](learn#rule) **{state.plain(run.info.rule)}**, applied to {PARTS.get(run.info.scope, 'the blocks')} on"
        " its own ([scope](learn#scope)). A projection takes out of a task's gradient what points against another's;"
        " it is made whenever their product is negative, noise or not: of gradients that have nothing to do with each"
        " other, about half."
    )
    if not (extent := _recorded(run)):
        return
    selection = select(extent)

    st.subheader("Over the steps")
    over_steps = state.ask(queries.projection_over_steps, run, selection)
    figure.show("projection-steps", partial(figures.projection_steps, over_steps), over_steps)

    st.subheader("Who is projected against whom")
    value = DIRECTED[
        st.segmented_control(
            "Show",
            list(DIRECTED),
            default="How often",
            required=True,
            key="directed",
            bind="query-params",
            label_visibility="collapsed",
        )
    ]
    by_pair = state.ask(queries.projection_by_pair, run, selection)
    tasks = list(extent.tasks)
    figure.show("projection-pairs", partial(figures.projection_pairs, by_pair, tasks, value), by_pair)

    _remaining(run, selection)
    figure.below(
        "by-layer",
        partial(_by_layer, run, selection),
        label="In which layers",
        icon="layers",
        opened=selection.layers is not None,
    )
    figure.below("update", partial(_update, run, selection), label="What it does to the update", icon="balance")


def _by_layer(run: Run, selection: Selection) -> None:
    frame = state.ask(queries.projection_by_layer, run, selection)
    figure.show("projection-layers", partial(figures.projection_layers, frame), frame)


def _update(run: Run, selection: Selection) -> None:
    st.markdown(
        "The [update](learn#update) is a weighted sum of the tasks' own gradients. Without projection every"
        " [weight](learn#effective-weight) is 1; a weight above 1 means that others, projected against this task, now"
        " carry a part of its gradient."
    )
    frame = state.ask(queries.weights, run, selection)
    figure.show("weights", partial(figures.weights_over_steps, frame), frame)


def _recorded(run: Run) -> Extent | None:
    extent: Extent = state.ask(queries.extent, run)
    if extent.of_steps:
        return extent
    if extent.snapshots:
        st.info("Only snapshots are recorded here: nothing was projected.")
        return None
    st.info("No gradients are recorded yet: the first appear a few seconds after training starts.")
    return None


def _remaining(run: Run, selection: Selection) -> None:
    st.subheader("What remains", help=glossary.help("residual-conflict"))
    matrix = state.ask(queries.task_matrix, run, selection)
    matrix = matrix[matrix["branch"] != WHOLE]
    st.markdown(state.plain(what_remains(matrix)))
    pairs = len(matrix.drop_duplicates(["task_i", "task_j"]))
    st.caption(
        "Two tasks on their own never conflict after projection; with three or more, taking out what points against one"
        " can turn a gradient against another. Dashed: 50% negative, what noise alone looks like."
        + (f" The {MOST} of {pairs} pairs of which most stay in conflict." if pairs > MOST else "")
    )
    figure.show("remaining", partial(figures.remaining_conflicts, matrix), matrix)


def _replay(run: Run, info: Identity) -> None:
    """What other methods would have done, asked for by a button and kept while the session lasts."""
    st.subheader("What another rule or scope would have done")
    st.markdown(
        "[Replayed](learn#replay) on all steps and layers of the record, from its [Gram matrices](learn#gram-matrix)."
        f" {NOTE}"
    )
    if info.groups:
        st.info(f"Only a run with one adapter is replayed; this one has {len(info.groups)}.")
        return
    if not state.ask(queries.extent, run).of_steps:
        st.info("There are no gradients to replay yet.")
        return
    done = st.session_state.setdefault("replayed", {})
    if st.button("Replay again" if run.run_id in done else "Replay", icon=":material/replay:", key="replay"):
        with st.spinner("Replaying the record with nine methods: seconds, for long records minutes."):
            done[run.run_id] = state.ask(replay_frame, run)
    if run.run_id not in done:
        return
    frame: pd.DataFrame = done[run.run_id].copy()
    keys = zip(frame["rule"], frame["scope"], frame["branches"], strict=True)
    frame.insert(0, "method", [method_name(*key) for key in keys])
    one = info.method[-2:].upper()  # as in `ortho-lora-a`, `gradvac@block-b`
    taken = method_name(info.rule, info.scope, one[1] if one in ("-A", "-B") else "both")
    st.caption(
        f"{frame['steps'].iloc[0]:,} steps. *Pairs projected*: of the directed ones, over blocks. *Direction*: mean"
        " cosine of a block's update and its plain sum; what is not turned is only stretched, and Adam divides that"
        " out. *Agreement*: mean cosine of the whole update and the one that was taken. *Tasks harmed*: share of the"
        " steps whose whole update points against a task's gradient, so raises its loss, to first order."
    )
    figure.show("replay", partial(figures.replayed_methods, frame, info.task_names, taken), frame)
