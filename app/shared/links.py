"""Ways from page to page. The router says which pages there are; a page leads to those of them that it names."""

from collections.abc import Iterable

import streamlit as st

from app.shared.selection import Pair, name_of

OF_A_PAIR = {
    "conflicts": "Task by task and over the steps",
    "layers": "Layer by layer",
    "projection": "What projection did",
}
"""The pages that are about a pair, and what they show of it."""


def register(pages: Iterable[st.Page]) -> None:
    """Let all pages lead to these, by their url_path."""
    st.session_state["pages"] = {page.url_path: page for page in pages}


def find(name: str) -> st.Page | None:
    """The page with this url_path, where the router has it."""
    pages: dict[str, st.Page] = st.session_state.get("pages", {})
    return pages.get(name)


def link(name: str, label: str, **chosen: str) -> None:
    """A link to a page, with what is to be chosen there, but the run, which comes along, by its name in the address."""
    if page := find(name):
        st.page_link(page, label=label, query_params=chosen or None)


def to_evidence(pair: Pair, branch: str | None) -> None:
    """Links to the pages about a pair, which open at it, and at one branch; None: at the one chosen before, or both."""
    for name, label in OF_A_PAIR.items():
        link(name, label, pair=name_of(pair), **({"branch": branch} if branch else {}))
