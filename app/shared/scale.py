"""What the colours of the maps of cosines span, and which moments they show; the same on all pages."""

from collections.abc import Sequence

import streamlit as st

from analysis.figures.heatmaps import When
from app.shared import glossary

_LIMITS = {"±1": 1.0, "±0.5": 0.5, "±0.2": 0.2}
_MOMENTS: dict[str, tuple[When, ...]] = {
    "All": ("before", "after", "change"),
    "Before": ("before",),
    "After": ("after",),
    "Difference": ("change",),
}


def choose_limit() -> float:
    """The cosine with the darkest colour."""
    chosen = st.segmented_control(
        "Darkest colour at",
        list(_LIMITS),
        default="±1",
        required=True,
        key="colours",
        bind="query-params",
        help="Batch cosines are small: a narrower scale shows how they differ, and shows noise louder.",
    )
    return _LIMITS[chosen]


def choose_moments() -> Sequence[When]:
    """Before projection, after it, what it changes; or all three."""
    chosen = st.segmented_control(
        "Projection",
        list(_MOMENTS),
        default="Before",
        required=True,
        key="moment",
        bind="query-params",
        help="Difference is after less before: blue is what projection took away of conflict.\n\n"
        + glossary.help("projection"),
    )
    return _MOMENTS[chosen]
