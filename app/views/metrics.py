"""How do the tasks fare, in this run and in others?"""

from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.library.runs import Run
from analysis.outcomes import trajectories
from analysis.outcomes.beside import board_of
from analysis.study import comparison
from app.shared import figure, glossary, state
from app.shared.selection import select_steps
from ortho_lora.record.schema import Identity

AXES: dict[str, Literal["step", "seconds"]] = {"Steps": "step", "Seconds": "seconds"}
PRIMARY = "primary"
Infos = dict[str, Identity]


def page() -> None:
    st.title("Metrics")
    run = state.current_run()
    state.live(run, lambda now: _body([now, *state.compared_runs()]))


def _body(runs: list[Run]) -> None:
    infos = {run.run_id: run.info for run in runs if run.info is not None}
    groups = trajectories.seed_groups(infos)
    values = state.ask_of_runs(queries.metrics, runs)
    metric, split, axis, together, weight = _choices(values, several=len(set(groups.values())) < len(groups))
    if not together:
        groups = {name: name for name in infos}
    series = list(dict.fromkeys(groups.values()))
    steps = _steps(runs[0]) if axis == "step" else None
    clock = state.ask_of_runs(queries.elapsed, runs) if axis == "seconds" else None

    def curves(found: pd.DataFrame) -> pd.DataFrame:
        timed = found if clock is None else trajectories.with_seconds(found, clock)
        return trajectories.over_seeds(timed, groups) if together else timed

    if values.empty:
        st.info(
            "Nothing is evaluated yet. A probe, and a training loop of one's own, record no evaluation, only losses."
        )
    else:
        shown = trajectories.metric_curves(values, infos, split, metric)
        _metrics(shown, curves(shown), series, groups, infos, split, axis, steps)
    st.subheader("Training loss")
    losses = curves(trajectories.loss_curves(state.ask_of_runs(queries.losses, runs)))
    if weight and not losses.empty:
        losses = trajectories.smooth(losses, weight)
        st.caption("Thin and faint: the recorded losses. An exponential moving average of them is drawn over.")
    figure.show(
        "losses",
        partial(figures.loss_trajectories, losses, series, axis=axis, steps=steps),
        losses,
    )
    if not values.empty:
        _gaps(runs[0])


def _steps(run: Run) -> tuple[int, int | None] | None:
    """The steps that the figures zoom to: the range that all pages share. None: all; without an end: all later ones."""
    extent = state.ask(queries.extent, run)
    if extent.first is None or not (steps := select_steps(extent)):
        return None
    # The last evaluation comes after the last recorded step.
    return steps[0], steps[1] if steps[1] < extent.last else None


def _choices(values: pd.DataFrame, *, several: bool) -> tuple[str | None, str, Literal["step", "seconds"], bool, float]:
    """Metric, split, axis, whether seeds are put together, and how much losses are smoothed."""
    metrics = [PRIMARY, *dict.fromkeys(values["metric"])]
    splits = list(dict.fromkeys(values["split"])) or ["validation"]
    for key, options in (("metric", metrics), ("split", splits)):
        if st.session_state.get(key) not in options:
            st.session_state.pop(key, None)
    columns = st.columns(4, vertical_alignment="bottom")
    with columns[0]:
        metric = st.selectbox(
            "Metric",
            metrics,
            key="metric",
            bind="query-params",
            filter_mode=None,
            help="*primary*: of each task the first that it records.",
        )
        split = splits[0]
        if len(splits) > 1:
            split = st.segmented_control(
                "Split", splits, default=split, required=True, key="split", bind="query-params"
            )
    with columns[1]:
        axis = st.segmented_control(
            "Equal",
            list(AXES),
            default="Steps",
            required=True,
            key="axis",
            bind="query-params",
            help="What is equal where points stand above each other. Seconds are those of training steps, without"
            " evaluations: projection, and an adapter for each task, cost time.",
        )
    with columns[2]:
        together = st.toggle(
            "Average seeds",
            key="seeds",
            bind="query-params",
            disabled=not several,
            help="Runs that differ in their seed alone become their mean, in a band from the lowest to the highest of"
            " them. Choose several under *Compare with*.",
        )
    with columns[3]:
        weight = st.slider("Smooth losses", 0.0, 0.95, 0.6, 0.05, key="smoothing", bind="query-params", help="0: none.")
    return None if metric == PRIMARY else metric, split, AXES[axis], together and several, weight


def _metrics(
    curves: pd.DataFrame,
    shown: pd.DataFrame,
    series: list[str],
    groups: dict[str, str],
    infos: Infos,
    split: str,
    axis: Literal["step", "seconds"],
    steps: tuple[int, int | None] | None,
) -> None:
    st.subheader("Over training")
    single = {groups[run] for run, info in infos.items() if info.method == "single"}
    said = ["Evaluated on the same examples every time. Dashed grey: always the most frequent class."]
    if single:
        said.append("Dotted: where [single-task training](learn#method) ends.")
    else:
        said.append("Compare with a run of [`single`](learn#method) to see where single-task training ends.")
    if "low" in shown:
        said.append("Bands reach from the lowest to the highest seed; no band: one run.")
    st.caption(" ".join(said))
    figure.show(
        "metrics",
        partial(
            figures.metric_trajectories,
            shown,
            series,
            infos,
            split,
            finals=single,
            axis=axis,
            steps=steps,
        ),
        shown,
    )
    if not curves.empty:
        st.subheader("Last values")
        final = trajectories.final_values(curves).rename(columns={"series": "run"})
        final.insert(1, "method", [infos[run].method for run in final["run"]])
        final.insert(2, "seed", [infos[run].seed for run in final["run"]])
        decimals = {task: st.column_config.NumberColumn(format="%.3f") for task in final.columns[4:]}
        figure.numbers("last-values", final, placeholder="–", column_config=decimals)


def _gaps(run: Run) -> None:
    assert run.info is not None
    st.subheader("Gap recovery", help=glossary.help("gap-recovery"))
    st.markdown(
        "(method − joint) / (single − joint): what a method wins back of what sharing one adapter costs."
        " From the last primary metrics of all finished runs in this directory with this run's settings, seed by seed,"
        " compared above or not. Whether there is a gap at all, and how much is recovered, needs three seeds."
    )
    found = comparison.recovery([board_of(run.path)])
    if found.empty:
        st.info(
            "There are no finished runs of `joint`, `single` and a third method with the same settings and seed beside"
            " this one yet."
        )
        return
    figure.numbers(
        "gap-recovery",
        found,
        placeholder="–",
        column_order=["method", "task", "in words", "recovered", "low", "high", "gap", "gain", "seeds", "metric"],
        column_config={
            "low": st.column_config.NumberColumn(format="percent"),
            "high": st.column_config.NumberColumn(format="percent"),
            "gap": st.column_config.NumberColumn("single − joint", format="%+.3f"),
            "gain": st.column_config.NumberColumn("method − joint", format="%+.3f"),
            "recovered": st.column_config.NumberColumn(format="percent"),
        },
    )
