"""How do the tasks fare, in this run and in others?"""

import pandas as pd
import streamlit as st

from analysis import figures, queries
from analysis.runs import Run, list_runs
from app import state
from ortho_lora.schema import RunInfo, default_runs_dir


def page() -> None:
    st.title("Metrics")
    run = state.current_run()
    known = {other.run_id: other for other in list_runs(default_runs_dir()) if other.info is not None}
    chosen = [run_id for run_id in st.session_state.get("compare", []) if run_id in known]
    if "compare" in st.session_state:
        st.session_state["compare"] = chosen
    others = st.multiselect(
        "Compare with",
        [run_id for run_id in known if run_id != run.run_id],
        key="compare",
        bind="query-params",
        placeholder="other runs of the same tasks: joint, single, another seed ...",
    )
    state.live(run, lambda now: _body([now, *(known[run_id] for run_id in others)]))


def _body(runs: list[Run]) -> None:
    infos = {run.run_id: run.info for run in runs if run.info is not None}
    st.subheader("Each task's primary metric")
    values = state.ask_of_runs(queries.metrics, runs)
    if values.empty:
        st.info("Nothing is evaluated yet. A training loop of one's own records no evaluation, only its losses.")
    else:
        _metrics(values, infos)
    st.subheader("Training loss")
    losses = state.ask_of_runs(queries.losses, runs)
    state.show_figure("losses", lambda: figures.loss_lines(losses, dark=state.is_dark()), losses)


def _metrics(values: pd.DataFrame, infos: dict[str, RunInfo]) -> None:
    splits = list(dict.fromkeys(values["split"]))
    split = (
        st.segmented_control("Split", splits, default=splits[0], required=True, key="split")
        if len(splits) > 1
        else splits[0]
    )
    st.caption("Evaluated on the same examples every time; the dashed grey line is always the most frequent class.")
    shown = values[values["split"] == split]
    state.show_figure("metrics", lambda: figures.metric_lines(shown, infos, split, dark=state.is_dark()), shown)
