"""Choices that pages share, kept in the address: a copied link opens the same view, and the next page shows the same.

Streamlit's own `bind="query-params"` serves what one page alone asks. It forgets what came with a link, and nobody
touched, when the page changes, and lets what was chosen before win over what a link says.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st


def _steps(values: Sequence[str]) -> tuple[int, int]:
    low, high = map(int, values)
    return min(low, high), max(low, high)


def _layers(values: Sequence[str]) -> list[int]:
    return [int(value) for value in values]


def _last(values: Sequence[str]) -> str:
    return values[-1]


def _step(values: Sequence[str]) -> int:
    return int(values[-1])


def _weights(values: Sequence[str]) -> dict[str, float]:
    found = {name: float(weight) for name, _, weight in (value.rpartition(":") for value in values)}
    if not all(0 <= weight <= HEAVIEST for weight in found.values()):
        raise ValueError
    return found


HEAVIEST = 1000.0
"""Of a task in a mixture that one asks about."""

CHOICES: dict[str, Callable[[Sequence[str]], Any]] = {
    "steps": _steps,
    "layers": _layers,
    "branch": _last,
    "pair": _last,
    "block": _last,
    "step": _step,
    "snapshot": _step,
    "way": _last,
    "mixture": _weights,
}
"""Keys of the session, most of them of widgets, and how their values read in an address; ValueError: not a value."""


def arrive(page: str) -> None:
    """Take the choices from the address; call it once a run, before any widget.

    What the address of a page just opened does not say stays as it was chosen on the page before.
    """
    state = st.session_state
    former = state.get("address-said", {}) if state.get("address-page") == page else {}
    given = {key: st.query_params.get_all(key) for key in CHOICES}
    for key, read in CHOICES.items():
        if given[key] == former.get(key, []):
            if key in state:
                state[key] = state[key]  # else it is forgotten with the widget of the page before
            continue
        try:  # changed from outside: by a link, by hand, or by going back
            state[key] = read(given[key])
        except (ValueError, IndexError):
            state.pop(key, None)
    state["address-page"], state["address-said"] = page, given


def say(**chosen: Sequence[object]) -> None:
    """Have the address say these choices of the page; none: nothing, as for the default."""
    said = st.session_state.setdefault("address-said", {})
    wanted = {key: [str(value) for value in values] for key, values in chosen.items()}
    if changed := {key: values for key, values in wanted.items() if values != said.get(key, [])}:
        st.query_params.update(changed)  # all at once: each is an entry in the browser's history
        said |= changed
