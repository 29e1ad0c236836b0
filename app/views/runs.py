"""Which runs are there, and how did they end?"""

from typing import Any

import pandas as pd
import streamlit as st

from analysis.runs import list_runs, runs_table
from app import state
from ortho_lora.schema import default_runs_dir


def page() -> None:
    st.title("Runs")
    if not list_runs(default_runs_dir()):
        st.info("There are no runs yet.")
        st.markdown(state.HOW_TO_START)
        st.stop()
    active = any(run.active for run in list_runs(default_runs_dir()))
    st.fragment(run_every=state.LIVE_SECONDS if active else None)(_table)()


def _table() -> None:
    runs = list_runs(default_runs_dir())
    frame = runs_table(runs)
    frame["state"] = [f"{state.SYMBOLS.get(name, '')} {name}" for name in frame["state"]]
    frame["age"] = [_age(created) for created in frame["created"]]
    frame["steps"] = [
        "" if pd.isna(total) else f"{done} / {total}" if total else f"{done}"
        for done, total in zip(frame["done"], frame["total"], strict=True)
    ]

    def open_chosen() -> None:
        chosen: Any = st.session_state["runs-table"]
        if chosen.selection.rows:
            st.session_state["run"] = frame["run"].iloc[chosen.selection.rows[0]]

    st.dataframe(
        frame,
        hide_index=True,
        column_order=["run", "state", "method", "steps", "final", "age", "tasks", "mean", "seed"],
        column_config={
            "run": st.column_config.TextColumn("Run", pinned=True),
            "state": "State",
            "method": "Method",
            "tasks": "Tasks",
            "steps": "Steps",
            "final": st.column_config.TextColumn(
                "Final metrics", help="Last validation value of each task's primary metric."
            ),
            "mean": st.column_config.NumberColumn("Mean", format="%.3f", help="Mean of the final metrics."),
            "age": "Age",
            "seed": "Seed",
        },
        key="runs-table",
        on_select=open_chosen,
        selection_mode="single-row",
        placeholder="",
        alt="All runs, the newest first",
    )
    st.caption("Click the left edge of a row to make it the run that all pages show.")
    for run in runs:
        if run.problem:
            st.warning(state.plain(run.problem))
        elif run.status and run.status.state == "failed":
            st.error(f"**{state.plain(run.run_id)}** failed: {state.plain(run.status.message)}")


def _age(created: "pd.Timestamp | Any") -> str:
    if pd.isna(created):
        return ""
    seconds = (pd.Timestamp.now("UTC") - created).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
