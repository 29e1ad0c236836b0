"""What of a run the pages are about: steps, layers, branch and pair, the same on every page and kept in the address."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.library.runs import Run
from app.shared import address, glossary, state
from ortho_lora.record.layers import layer_name
from ortho_lora.record.schema import BRANCHES

Pair = tuple[str, str]


def select(extent: Extent) -> Selection:
    """The bar with steps, layers and branch."""
    columns = st.columns([4, 3, 2], vertical_alignment="bottom")
    _forget_unknown(extent)
    with columns[0]:
        steps = _steps(extent)
    with columns[1]:
        layers = st.multiselect(
            "Layers", extent.layers, format_func=layer_name, key="layers", placeholder="all layers", filter_mode=None
        )
    with columns[2]:
        chosen = st.segmented_control(
            "Branch", BRANCHES, key="branch", help=f"None chosen: both. {glossary.help('adapter', 'block')}"
        )
    address.say(steps=steps or (), layers=layers, branch=[chosen] if chosen else [])
    return Selection(
        steps=steps,
        layers=tuple(layers) or None,
        branches=(chosen,) if chosen else None,
    )


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


def select_snapshot(steps: Sequence[int]) -> int | None:
    """One of the snapshots of a run; None: none is chosen, so those that count together."""
    if st.session_state.get("snapshot") not in (None, *steps):
        st.session_state["snapshot"] = None
    words = "None chosen: all of them together, or in a record of another loop the last one."
    at: int | None = st.segmented_control("Snapshot at step", steps, key="snapshot", help=words)
    address.say(snapshot=[at] if at is not None else [])
    return at


def select_steps(extent: Extent) -> tuple[int, int] | None:
    """The steps alone; None: all."""
    steps = _steps(extent)
    address.say(steps=steps or ())
    return steps


def _steps(extent: Extent) -> tuple[int, int] | None:
    assert extent.first is not None
    assert extent.last is not None
    whole = (extent.first, extent.last)
    _follow(whole)
    if extent.first < extent.last:
        st.slider("Steps", *whole, key="steps")  # of a range, as the session has two values
    else:
        st.caption(f"Steps: only step {extent.first} is recorded yet.")
    steps: tuple[int, int] = st.session_state["steps"]
    return None if steps == whole else steps


def select_pair(extent: Extent, first: Pair) -> Pair:
    """The pair of tasks that a page is about; `first` until one is chosen here, by a click, or by a link."""
    pairs = {name_of(pair): pair for pair in extent.pairs}
    if st.session_state.get("pair") not in pairs:
        st.session_state["pair"] = name_of(first)
    chosen = st.selectbox("Pair of tasks", list(pairs), index=None, required=True, key="pair")
    assert chosen is not None
    address.say(pair=[chosen])
    return pairs[chosen]


def choose_pair(pair: Pair) -> None:
    """Let all pages be about this pair; for the callback of a click."""
    st.session_state["pair"] = name_of(pair)


def of_pair(frame: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """The rows of one pair."""
    return frame[(frame["task_i"] == pair[0]) & (frame["task_j"] == pair[1])].reset_index(drop=True)


def name_of(pair: Pair) -> str:
    return f"{pair[0]} + {pair[1]}"


def _follow(whole: tuple[int, int]) -> None:
    """A range that reached to the end of the record goes on doing so as it grows, and stays inside another run's."""
    former = st.session_state.get("steps_recorded", whole)
    st.session_state["steps_recorded"] = whole
    low, high = st.session_state.get("steps", former)
    low = whole[0] if low == former[0] else min(max(low, whole[0]), whole[1])
    high = whole[1] if high == former[1] else max(min(high, whole[1]), low)
    if st.session_state.get("steps") != (low, high):
        st.session_state["steps"] = (low, high)


def _forget_unknown(extent: Extent) -> None:
    """What another run, or an address, chose and this run does not have."""
    chosen = st.session_state.get("layers", [])
    if (known := [layer for layer in chosen if layer in extent.layers]) != chosen:
        st.session_state["layers"] = known
    if st.session_state.get("branch") not in (None, *BRANCHES):
        st.session_state["branch"] = None
