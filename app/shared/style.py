"""What every page has beside Streamlit's themes: contrast, how it stands on paper, plotly ahead of its figures."""

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
# What draws figures, 4.7 MB. A browser takes more than a second to read it, and Streamlit begins with the first figure.
_PLOTLY = next((path.name for path in Path(st.__file__).parent.glob("static/static/js/PlotlyChart.*.js")), None)
_ahead = st.components.v2.component("ahead", js=(_HERE / "ahead.js").read_text(encoding="utf-8"))
_paper = st.components.v2.component("paper", js=(_HERE / "paper.js").read_text(encoding="utf-8"))


def show() -> None:
    """Once a run; takes no room."""
    st.html(_HERE / "page.css")
    with st.sidebar, st.container(key="unseen", gap=None):
        _ahead(key="ahead", data={"file": _PLOTLY}, height=0)
        _paper(key="paper", height=0)
