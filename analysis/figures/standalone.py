"""Figures for a page that stands alone: as JSON for plotly's own script, which asks nobody for anything."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

Drawn: TypeAlias = go.Figure

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,  # no button that uploads
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    "responsive": True,
}
"""How the script shows every figure."""


def script() -> str:
    """The script that draws, 4.8 MB."""
    source: str = get_plotlyjs()
    return source


def document(draw: Callable[[bool], Drawn]) -> dict[str, Any]:
    """A figure for light and dark pages, ready for JSON.

    Args:
        draw: from whether the page is dark.

    Returns:
        figure: of a light page, as plotly's JSON; dark: what differs on a dark one, as [path, value] each.
    """
    light, dark = (json.loads(draw(is_dark).to_json()) for is_dark in (False, True))
    return {"figure": light, "dark": [[list(path), value] for path, value in _changes(light, dark)]}


def _changes(one: Any, other: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _changes(one[key], other[key], (*path, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from _changes(*pair, (*path, place))
    else:
        yield path, other
