"""What every page has beside Streamlit's themes: contrast, and how it stands on paper."""

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
_paper = st.components.v2.component("paper", js=(_HERE / "paper.js").read_text(encoding="utf-8"))


def show() -> None:
    """Once a run; takes no room."""
    st.html(_HERE / "page.css")
    with st.sidebar:
        _paper(key="paper", height=0)
