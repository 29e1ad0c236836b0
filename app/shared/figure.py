"""How a figure is shown: with an alternative text, the same numbers as a table, and files of both."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from analysis.figures.words import describe
from analysis.output.files import csv_text
from app.shared.state import BY_NAME, is_dark


def show(
    name: str,
    draw: partial[go.Figure],
    frame: pd.DataFrame,
    *,
    alt: str | None = None,
    on_click: Callable[[dict[str, Any]], None] | None = None,
    table: bool = True,
) -> None:
    """A figure, and under it its numbers.

    Args:
        name: of the figure on all pages, and of its files.
        draw: a named function with its arguments but `dark`, which makes the figure where there are numbers.
        frame: the numbers.
        alt: alternative text; None: what `analysis.figures.words` says of the frame.
        on_click: called before the page runs again with a clicked point, of which `customdata` says what it is. A click
            on a heatmap's cell is not delivered: the figure needs markers on top.
        table: whether the numbers are there; not where they are those of the figure beside it.
    """
    if frame.empty:
        st.info("Nothing is recorded for this selection yet.")
        return
    key, form = f"figure-{name}", str(st.session_state.get("image") or "SVG")

    def clicked() -> None:
        points = st.session_state[key].selection.points
        if on_click is not None and points:
            on_click(points[0])

    st.plotly_chart(
        _drawn(draw, is_dark()),
        theme=None,
        width="stretch",
        key=key,
        alt=alt or describe(frame),
        on_select=clicked if on_click else "ignore",
        selection_mode="points",
        config={
            "displaylogo": False,
            "toImageButtonOptions": {"format": form.lower(), "filename": name, "scale": 2},
        },
    )
    if table:
        with st.expander("The numbers", icon=":material/table:"):
            numbers(name, frame)


@st.cache_resource(show_spinner=False, max_entries=100, hash_funcs=BY_NAME)
def _drawn(draw: partial[go.Figure], dark: bool) -> go.Figure:
    """Remembered, as plotly takes longer to make a figure than the record to answer."""
    return draw(dark=dark)


def numbers(name: str, frame: pd.DataFrame, **options: Any) -> None:
    """A table, and its files; `options` as of `st.dataframe`."""
    st.dataframe(frame, hide_index=True, key=f"table-{name}", **options)
    files: list[tuple[str, str, Callable[[pd.DataFrame], str | bytes]]] = [
        ("CSV", "text/csv", csv_text),
        ("Parquet", "application/vnd.apache.parquet", _parquet),
    ]
    with st.container(horizontal=True):
        for form, mime, write in files:
            st.download_button(
                form,
                partial(write, frame),
                f"{name}.{form.lower()}",
                mime,
                key=f"{form.lower()}-{name}",
                icon=":material/download:",
                on_click="ignore",
            )


def choose_image_format() -> None:
    """What the camera in a figure's toolbar saves."""
    st.segmented_control(
        "Figures are saved as", ["SVG", "PNG"], default="SVG", required=True, key="image", persist_state="session"
    )


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
