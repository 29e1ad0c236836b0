"""The playground: gradients as arrows that are dragged, and what a rule makes of them. It runs in the browser alone.

The names of tasks are data of the component, which it shows as text; its own markup and code hold nothing of a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from analysis.statistics.series import Floats

LARGEST = 3
"""Tasks that it shows at once."""


def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_component = st.components.v2.component(
    "playground",
    html=_source("playground.html"),
    css=_source("playground.css"),
    js="\n".join(map(_source, ("rules.js", "questions.js", "picture.js", "playground.js"))),
)


def playground(origin: str = "", names: Sequence[str] = (), arrows: Floats | None = None, *, key: str) -> None:
    """Show it, with gradients of its own, or with those of a run.

    Args:
        origin: in words, where the arrows come from.
        names: of the tasks, 2 or 3.
        arrows: [T, T], as of `analysis.conflict.plane.coordinates`; None: gradients of its own.
        key: of the element.
    """
    data: dict[str, Any] = {"origin": origin, "names": list(names), "arrows": []}
    if arrows is not None:
        data["arrows"] = [[*map(float, row), 0.0, 0.0][:LARGEST] for row in arrows]
    _component(data=data, key=key)
