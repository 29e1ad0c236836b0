"""How a figure is shown: with an alternative text, the same numbers as a table, and files of both."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from analysis.figures.words import describe
from analysis.output.files import csv_text
from app.shared.state import BY_NAME, is_dark

_pictures = st.components.v2.component(
    "pictures",
    html='<div><button type="button" value="svg">SVG</button><button type="button" value="png">PNG</button></div>',
    css=Path(__file__).with_name("picture.css").read_text(encoding="utf-8"),
    js=Path(__file__).with_name("picture.js").read_text(encoding="utf-8"),
)
"""Buttons that save the figure above them."""
_clicks = st.components.v2.component("clicks", js=Path(__file__).with_name("clicks.js").read_text(encoding="utf-8"))


def show(
    name: str,
    draw: partial[go.Figure],
    frame: pd.DataFrame,
    *,
    alt: str | None = None,
    on_click: Callable[[Any], None] | None = None,
    table: bool = True,
) -> None:
    """A figure, and under it its numbers.

    Args:
        name: of the figure on all pages, and of its files.
        draw: a named function with its arguments but `dark`, which makes the figure where there are numbers.
        frame: the numbers.
        alt: alternative text; None: what `analysis.figures.words` says of the frame.
        on_click: called before the page runs again with the `customdata` of a clicked point or cell.
        table: whether the numbers are there; not where they are those of the figure beside it.
    """
    if frame.empty:
        st.info("Nothing is recorded for this selection yet.")
        return
    drawn = _drawn(draw, is_dark())
    with st.container(key=f"panels{_panels(drawn)}-{name}", gap=None):  # page.css has narrow screens scroll them
        st.plotly_chart(
            drawn,
            theme=None,
            width="stretch",
            key=f"figure-{name}",
            alt=alt or describe(frame),
            config={
                "displaylogo": False,
                "toImageButtonOptions": {"format": "svg", "filename": name},
            },
        )
        if on_click is not None:
            key = f"clicks-{name}"
            _clicks(key=key, on_clicked_change=partial(_follow, key, on_click), width=1, height=1)
    if table:
        below(name, partial(numbers, name, frame, picture=True))
    else:
        below(name, partial(_pictures, data={"name": name}, key=f"picture-{name}"), label="Files", icon="image")


def _follow(key: str, on_click: Callable[[Any], None]) -> None:
    on_click(st.session_state[key].clicked)


def _panels(drawn: go.Figure) -> int:
    """How many stand beside each other, counted to four; 0 where a phone has room for them: one heatmap, two others."""
    maps = [trace for trace in drawn.data if trace.type == "heatmap"]
    axes = {trace.xaxis or "x" for trace in maps or drawn.data}
    beside = len({drawn.layout[axis.replace("x", "xaxis", 1)].domain for axis in axes})
    return min(beside, 4) if beside > (1 if maps else 2) else 0


def below(
    name: str,
    show_it: Callable[[], object],
    *,
    label: str = "Numbers and files",
    icon: str = "table",
    opened: bool = False,
) -> None:
    """What most people do not open, and the browser need not draw until somebody does.

    Args:
        opened: how it is found by who comes to the page, as by a link to something in it.
    """
    place = st.expander(label, opened, icon=f":material/{icon}:", key=f"below-{name}", on_change="rerun")
    if place.open:
        with place:
            show_it()


@st.cache_resource(show_spinner=False, max_entries=100, hash_funcs=BY_NAME)
def _drawn(draw: partial[go.Figure], dark: bool) -> go.Figure:
    """Remembered, as plotly takes longer to make a figure than the record to answer."""
    return draw(dark=dark)


def numbers(name: str, frame: pd.DataFrame, *, picture: bool = False, **options: Any) -> None:
    """A table, and its files; `options` as of `st.dataframe`.

    Args:
        picture: whether those of the figure right above are beside them.
    """
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
        if picture:
            _pictures(data={"name": name}, key=f"picture-{name}", width="content")


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
