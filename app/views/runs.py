"""Which runs are there, how did they end, and which of them are looked at?

A row that is checked is the run that all pages show; with several, others are compared with it. What is checked goes by
name, not by place, so that it stays when runs come, go, or are filtered.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from analysis.library.runs import Run, runs_table
from analysis.library.search import find_runs
from app.shared import glossary, places, state
from app.views import run_panel

ROWS_SHOWN = 14
"""Rows of the table before it scrolls."""


def page() -> None:
    st.title("Runs")
    found = places.survey()
    runs = found.runs
    if found.left_out:
        state.left_out("Not runs, so left out", found.left_out)
    if not runs:
        st.info("There are no runs yet.")
        st.markdown(state.HOW_TO_START)
        st.stop()
    wanted, order = _filters(runs)
    live = any(run.active for run in runs)
    st.fragment(run_every=state.LIVE_SECONDS if live else None)(_table)(wanted, order, live)
    by_name = {run.run_id: run for run in runs}
    wanted_runs = [st.session_state["run"], *st.session_state.get("compare", [])]
    if not set(wanted_runs) <= by_name.keys():
        st.rerun()  # one went since the sidebar listed it
    if len(wanted_runs) > 1:
        run_panel.several([by_name[name] for name in wanted_runs])
    else:
        run_panel.one(by_name[wanted_runs[0]])


def _filters(runs: Sequence[Run]) -> tuple[dict[str, Any], str]:
    """What is searched for, as `find_runs` takes it, and the order of `ORDERS`; all of it in the address."""
    known = [run.info for run in runs if run.info]
    choices = {
        "states": ("State", set(state.SYMBOLS)),
        "methods": ("Method", {info.method for info in known}),
        "tasks": ("Tasks", {name for info in known for name in info.task_names}),
        "tags": ("Tags", {tag for run in runs for tag in run.notes.tags}),
    }
    line = st.container(horizontal=True, vertical_alignment="bottom")
    wanted: dict[str, Any] = {
        "text": line.text_input(
            "Search",
            key="search",
            type="search",
            live=True,
            placeholder="words in names, titles, methods, tasks, tags or notes",
            bind="query-params",
        ),
        "archived": line.toggle(
            "Archived", key="archived", bind="query-params", help="Show the runs that were put aside."
        ),
    }
    order = line.selectbox("Order", list(ORDERS), key="order", bind="query-params", filter_mode=None, width=180)
    for column, (key, (label, options)) in zip(st.columns(len(choices)), choices.items(), strict=True):
        options |= set(st.session_state.get(key, []))  # it stays a choice when the last such run has gone
        wanted[key] = column.multiselect(
            label,
            sorted(options),
            key=key,
            placeholder="any",
            bind="query-params",
            help=glossary.help(EXPLAINED[key]) if key in EXPLAINED else None,
        )
    return wanted, order


def _table(wanted: dict[str, Any], order: str, live: bool) -> None:
    every = places.runs()
    runs = find_runs(every, **wanted)
    if live and not any(run.active for run in every):
        st.rerun()  # the last look: the fragment's clock stops with it

    if not runs:
        hidden = sum(run.notes.archived != wanted["archived"] for run in every)
        where = "archived" if wanted["archived"] else "other than the archived ones"
        st.info(f"No run {where} fits." if hidden else "No run fits: ask for less above.")
        return
    column, rising = ORDERS[order]
    shown = _shown(runs).sort_values(column, ascending=rising, kind="stable", ignore_index=True)
    names = shown["run"].tolist()
    _check_rows(names)
    st.dataframe(
        shown,
        height="content" if len(runs) <= ROWS_SHOWN else 35 * (ROWS_SHOWN + 1) + 2,
        hide_index=True,
        column_order=[name for name in COLUMNS if name not in SELDOM or shown[name].map(bool).any()],
        column_config=COLUMNS,
        key="runs-table",
        on_select=lambda: _choose(names),
        selection_mode="multi-row",
        placeholder="",
        alt=f"Runs, {order.lower()}",
    )
    st.caption(
        f"{_count(len(runs))} of {len(every)}. Check a row to show that run on all pages, several to compare them; "
        "a click on a column's head sorts until the page is left."
    )
    if st.session_state.pop("runs-chosen", False):
        st.rerun()  # the panel below and the sidebar follow


EXPLAINED = {"methods": "method", "tasks": "task"}
"""Filters that the glossary explains."""
ORDERS = {
    "Newest first": ("created", False),
    "Oldest first": ("created", True),
    "By name": ("run", True),
    "By method": ("method", True),
    "Best mean first": ("mean", False),
    "Longest first": ("minutes", False),
}
"""What the table is sorted by, and whether it rises. A click on a head sorts too, but a table does not tell of it."""
COLUMNS = {
    "run": st.column_config.TextColumn("Run", pinned=True, help="The name of its directory."),
    "title": st.column_config.TextColumn("Title"),
    "state": st.column_config.TextColumn("State"),
    "progress": st.column_config.ProgressColumn("Progress", format="percent", width="small"),
    "method": st.column_config.TextColumn("Method"),
    "mean": st.column_config.NumberColumn(
        "Mean",
        format="%.3f",
        help="Mean of the final metrics, without those of twins: labels that were flipped are nothing to be good at.",
    ),
    "final": st.column_config.TextColumn("Final metrics", help="Last validation value of each task's primary metric."),
    "message": st.column_config.TextColumn("Message", width="medium", help="Why it failed, or cannot be read."),
    "tags": st.column_config.ListColumn("Tags"),
    "created": st.column_config.DatetimeColumn("Begun", format="distance"),
    "minutes": st.column_config.NumberColumn(
        "Minutes", format="%.1f", help="From its beginning to the last sign of its training."
    ),
    "seed": st.column_config.NumberColumn("Seed", format="%d"),
    "tasks": st.column_config.TextColumn("Tasks"),
    "steps": st.column_config.TextColumn("Steps"),
    "note": st.column_config.TextColumn("Note"),
}
SELDOM = ("title", "message", "tags", "note")
"""Columns that are left out where all of them would be empty."""


def _shown(runs: Sequence[Run]) -> pd.DataFrame:
    frame = runs_table(runs)
    frame["message"] = [
        run.problem.removeprefix(f"{run.path}/") if run.problem else run.status.message if run.status else ""
        for run in runs
    ]
    frame["state"] = [f"{state.SYMBOLS[name]} {name}" for name in frame["state"]]
    frame["minutes"] = frame["seconds"] / 60
    frame["progress"] = (frame["done"] / frame["total"].replace(0, pd.NA)).astype("Float64")
    frame["steps"] = [
        "" if pd.isna(total) else f"{done} / {total}" if total else f"{done}"
        for done, total in zip(frame["done"], frame["total"], strict=True)
    ]
    return places.shown(frame)


def _check_rows(names: Sequence[str]) -> None:
    """Check the rows of the runs that are looked at, where the table does not show them so."""
    checked = _checked()
    rows = [row for row, name in enumerate(names) if name in checked]
    if st.session_state.get("runs-listed") != names or set(_rows()) != set(rows):
        st.session_state["runs-listed"] = list(names)
        st.session_state["runs-table"] = {"selection": {"rows": rows, "columns": [], "cells": []}}


def _choose(names: Sequence[str]) -> None:
    """Make the runs whose rows are checked those of all pages: one is shown, the others are compared with it."""
    hidden = [name for name in _checked() if name not in names]  # by a filter: they stay
    checked = hidden + [names[row] for row in _rows() if row < len(names)]
    if checked and st.session_state["run"] not in checked:
        st.session_state["run"] = checked[0]
    st.session_state["compare"] = [name for name in checked if name != st.session_state["run"]]
    st.session_state["runs-alone"] = len(checked) == 1
    st.session_state["runs-chosen"] = True


def _checked() -> list[str]:
    """The chosen run with those compared. Alone it is checked only where somebody did: else one click replaces it."""
    run, compared = st.session_state["run"], st.session_state.get("compare", [])
    return [run, *compared] if compared or st.session_state.get("runs-alone") else []


def _rows() -> list[int]:
    """Places of the rows that are checked."""
    return st.session_state["runs-table"]["selection"]["rows"] if "runs-table" in st.session_state else []


def _count(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
