"""Which tasks conflict, since when, and is it more than chance?"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement, worst_pair
from analysis.figures.heatmaps import WITH_NUMBERS, View, When
from analysis.library.names import snapshots_at
from analysis.library.runs import Run
from app.shared import figure, glossary, scale, state
from app.shared.selection import Pair, choose_pair, name_of, of_pair, select_matrix, select_pair, select_snapshot
from ortho_lora.record.snapshots import MetricName, metric_of

VIEWS: dict[str, View] = {"Cosine": "cosine", "Batch cosine": "batch", "Share negative": "rate"}
METRICS: dict[str, MetricName] = {"as AdamW scales": "adamw", "plain": "plain"}
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


def page() -> None:
    st.title("Conflicts", help=glossary.help("conflict", "cosine"))
    run = state.current_run()
    state.need_pairs(run)
    state.live(run, _body)


def _body(run: Run) -> None:
    if (selected := select_matrix(run)) is None:
        return
    extent, selection, matrix = selected
    told, limit = matrix, 1.0
    st.subheader("Task by task", anchor=False)
    space = st.container()  # the map is drawn when the pair that it outlines is known
    if extent.snapshots:
        with space:
            told, limit = _snapshot(run, extent, selection)
    st.subheader("One pair", anchor=False)
    pair = select_pair(extent, worst_pair(told))
    if not extent.snapshots:
        with space:
            _matrix(run, extent, selection, matrix, pair)
        _over_windows(run, selection, matrix, pair)
        _over_steps(run, selection, pair)
        return
    with space:
        _map(told, extent, "cosine", pair, limit)
    _over_snapshots(run, extent, selection, told, pair)
    if extent.of_steps:
        figure.below(
            "steps",
            partial(_steps, run, extent, selection, matrix, pair),
            label="What the rule saw, step by step",
            icon="timeline",
            opened=selection.steps is not None or not {"view", "moment"}.isdisjoint(st.query_params),
        )


def _snapshot(run: Run, extent: Extent, selection: Selection) -> tuple[pd.DataFrame, float]:
    """What the chosen snapshots say, and how far colours reach."""
    assert run.info is not None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        at = select_snapshot(extent.snapshots)
        own = metric_of(run.info.config.get("optimizer"))
        names = sorted(METRICS, key=lambda name: METRICS[name] != own)
        metric = METRICS[
            st.segmented_control("Gradients", names, default=names[0], required=True, key="metric", bind="query-params")
        ]
        limit = scale.choose_limit()
    chosen = replace(selection, steps=None)
    told: pd.DataFrame = state.ask(queries.snapshot_matrix, run, chosen, metric, at)
    counted = [at] if at is not None else state.ask(queries.together, run)
    st.markdown(f"{HELP['cosine']} Of {snapshots_at(counted).replace('snapshot', '[snapshot](learn#snapshot)', 1)}.")
    return told, limit


def _map(
    matrix: pd.DataFrame,
    extent: Extent,
    view: View,
    pair: Pair,
    limit: float,
    when: Sequence[When] = (),
    noise: pd.DataFrame | None = None,
) -> None:
    few = len(extent.tasks) <= WITH_NUMBERS
    st.caption(
        f"{'**Bold**' if few else '**▼** or **▲**'}: the verdict is conflict or aligned, corrected for the number of"
        " pairs. Red is conflict. Click a cell to follow its pair."
    )
    figure.show(
        "task-by-task" if view == "cosine" else "task-by-task-steps",
        partial(
            figures.task_heatmap, matrix, list(extent.tasks), view, when=when, noise=noise, chosen=pair, limit=limit
        ),
        matrix,
        on_click=_follow,
    )


def _over_snapshots(run: Run, extent: Extent, selection: Selection, told: pd.DataFrame, pair: Pair) -> None:
    """What a pair comes to, at the snapshot chosen and at all of them."""
    _said(of_pair(told, pair).assign(shares_texts=False))
    if len(extent.snapshots) > 1:
        chosen, metric = replace(selection, steps=None), told["metric"].iloc[0]
        timed = of_pair(state.ask(queries.over_snapshots, run, chosen, metric), pair)
        st.markdown("**Over the run**: at each snapshot, with 95% intervals.")
        words = f"Cosine of {name_of(pair)} at each snapshot, with 95% intervals."
        figure.show("over-snapshots", partial(figures.over_snapshots, timed), timed, alt=words)


def _steps(run: Run, extent: Extent, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    _matrix(run, extent, selection, matrix, pair)
    _over_steps(run, selection, pair)


def _matrix(run: Run, extent: Extent, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    views = [name for name, view in VIEWS.items() if view != "cosine" or not extent.snapshots]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.segmented_control(
            "Measure", views, default=views[0], required=True, key="view", bind="query-params"
        )
        view = VIEWS[chosen]
        when = () if view == "cosine" else scale.choose_moments()
        limit = 1.0 if view == "rate" or extent.snapshots else scale.choose_limit()
    st.markdown(HELP[view])
    noise = state.ask(queries.noise, run, selection)
    _map(matrix, extent, view, pair, limit, when, noise)
    figure.below("noise", partial(_noise, noise), label="What two half batches of the same task agree on", icon="rule")


def _noise(found: pd.DataFrame) -> None:
    st.caption(
        "The cosine of the gradients of two halves of one task's own batch: the most that any other task can be"
        " expected to reach. *signal* is the squared norm of its gradient without noise, empty where it is not"
        " clearly above zero."
    )
    figure.numbers("noise", found)


def _follow(pair: Sequence[str]) -> None:
    one, other = pair
    choose_pair((one, other))


def _over_windows(run: Run, selection: Selection, matrix: pd.DataFrame, pair: Pair) -> None:
    _said(of_pair(matrix, pair))
    st.markdown("**Window by window**: is it so all the time?")
    windows = of_pair(state.ask(queries.windows, run, selection), pair)
    figure.show("windows", partial(figures.window_intervals, windows, pair), windows)


def _over_steps(run: Run, selection: Selection, pair: Pair) -> None:
    st.markdown("**Step by step**: batch cosines, mean over blocks; the band reaches from the lowest to the highest.")
    steps = state.ask(queries.pair_over_steps, run, pair, selection)
    figure.show("pair-over-steps", partial(figures.pair_lines, steps, pair), steps)


def _said(rows: pd.DataFrame) -> None:
    """The verdicts on a pair, branch by branch."""
    found = [verdict_sentence(Agreement.of(row), row["shares_texts"]) for row in rows.to_dict("records")]
    st.markdown("\n".join(f"- {state.plain(sentence)}" for sentence in found))
