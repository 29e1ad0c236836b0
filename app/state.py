"""What all pages share: the runs, the chosen one, what is selected of it, and how a figure is shown.

The chosen run and the selection live in the address, so that a copied link opens the same view.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from analysis import queries
from analysis.queries import Extent, Selection
from analysis.runs import Run, list_runs, open_run
from analysis.words import describe
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import default_runs_dir

LIVE_SECONDS = 2.0
"""How often a page of a run that is training looks again."""

SYMBOLS = {
    "queued": "◌", "running": "▶", "stopping": "◼", "stopped": "■", "failed": "✕", "finished": "✓",
    "stalled": "◍", "lost": "?", "unreadable": "!",
}  # fmt: skip

HOW_TO_START = """
Make one in any of three ways:

- on the **Launch** page;
- `make app` in a terminal trains the demo run, in about a minute;
- `python -m ortho_lora train --config examples/demo.yaml --name demo`, or with tasks of your own:
  `python -m ortho_lora train --help` lists every setting.
"""


def plain(text: str) -> str:
    """Untrusted text for a place that renders Markdown."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-.!|~<>$:@" else letter for letter in text)


def is_dark() -> bool:
    return st.context.theme.type == "dark"


def choose_run() -> None:
    """The run that the pages show, in the sidebar and in the address."""
    runs = list_runs(default_runs_dir())
    states = {run.run_id: run.state for run in runs}
    if st.session_state.get("run") not in states:
        st.session_state.pop("run", None)
    # Always in the address, also where it is the newest run: another will be the newest tomorrow.
    if states and "run" not in st.session_state and st.query_params.get("run") not in states:
        st.session_state["run"] = next(iter(states))
    with st.sidebar:
        st.selectbox(
            "Run",
            list(states),
            index=None,
            key="run",
            bind="query-params",
            placeholder="no runs yet",
            disabled=not states,
        )
        if chosen := st.session_state.get("run"):
            st.caption(f"{SYMBOLS[states[chosen]]} {states[chosen]}")
        st.caption(f"in {plain(str(default_runs_dir()))}")
        st.button("Look again", icon=":material/refresh:", help="Read the runs directory again.")


def current_run() -> Run:
    """The chosen run; where there is none, or it cannot be read, the page says so and ends."""
    if not (run_id := st.session_state.get("run")):
        st.info("There is no run to show yet.")
        st.markdown(HOW_TO_START)
        st.stop()
    try:
        run = open_run(default_runs_dir(), run_id)
    except OrthoLoraError as error:
        st.error(plain(str(error)))
        st.stop()
    if run.info is None:
        st.error(plain(run.problem or f"{run.path}: cannot be read."))
        st.stop()
    if run.problem:
        st.warning(plain(run.problem))
    return run


def live(run: Run, body: Callable[[Run], None]) -> None:
    """Show `body`, and while the run trains show it again every LIVE_SECONDS."""
    active = run.active

    @st.fragment(run_every=LIVE_SECONDS if active else None)
    def show() -> None:
        now = open_run(default_runs_dir(), run.run_id) if active else run
        if active and not now.active:
            st.rerun()  # the last look: the fragment's clock stops with it
        if active and now.status:
            st.caption(f"{SYMBOLS['running']} training, {now.status.progress}")
        try:
            body(now)
        except OrthoLoraError as error:
            st.error(plain(str(error)))

    show()


def ask(question: Callable[..., Any], run: Run, *arguments: Any) -> Any:
    """The answer of `analysis.queries`, remembered until the record grows."""
    return _answer(question.__name__, str(run.path), _version(run.path), *arguments)


def ask_of_runs(question: Callable[..., Any], runs: list[Run]) -> Any:
    """The same for a question to several runs."""
    return _answer_of_runs(question.__name__, [str(run.path) for run in runs], [_version(run.path) for run in runs])


@st.cache_data(show_spinner=False, max_entries=100)
def _answer(question: str, run: str, version: int, *arguments: Any) -> Any:
    return getattr(queries, question)(Path(run), *arguments)


@st.cache_data(show_spinner=False, max_entries=20)
def _answer_of_runs(question: str, runs: list[str], versions: list[int]) -> Any:
    return getattr(queries, question)([Path(run) for run in runs])


def _version(run: Path) -> int:
    try:
        return (run / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def select_steps_and_layers(extent: Extent) -> Selection:
    """The step range and layers that a page is about."""
    assert extent.first is not None
    assert extent.last is not None
    steps, layers = st.columns([3, 2])
    whole = (extent.first, extent.last)
    _follow(whole)
    with steps:
        if extent.first < extent.last:
            chosen = st.slider("Steps", *whole, value=whole, key="steps", bind="query-params")
        else:
            chosen = whole
            st.caption(f"Steps: only step {extent.first} is recorded yet.")
    with layers:
        known = [layer for layer in st.session_state.get("layers", []) if layer in extent.layers]
        if "layers" in st.session_state:
            st.session_state["layers"] = known
        some = st.multiselect(
            "Layers", extent.layers, key="layers", bind="query-params", placeholder="all layers", filter_mode=None
        )
    return Selection(
        steps=None if chosen == whole else chosen,
        layers=tuple(some) or None,
    )


def _follow(whole: tuple[int, int]) -> None:
    """A range that reached to the end of the record goes on doing so as it grows, and stays inside another run's."""
    former = st.session_state.get("steps_recorded", whole)
    st.session_state["steps_recorded"] = whole
    if "steps" not in st.session_state or former == whole:
        return
    low, high = st.session_state["steps"]
    low = whole[0] if low == former[0] else min(max(low, whole[0]), whole[1])
    high = whole[1] if high == former[1] else max(min(high, whole[1]), low)
    st.session_state["steps"] = (low, high)


def select_pair(extent: Extent, first: tuple[str, str]) -> tuple[str, str]:
    """The pair of tasks that a page is about; `first` until one is chosen."""
    pairs = {f"{one} + {other}": (one, other) for one, other in extent.pairs}
    if st.session_state.get("pair") not in pairs:
        st.session_state.pop("pair", None)
    if "pair" not in st.session_state and st.query_params.get("pair") not in pairs:
        st.session_state["pair"] = " + ".join(first)
    chosen = st.selectbox("Pair of tasks", list(pairs), index=None, required=True, key="pair", bind="query-params")
    return pairs[chosen] if chosen else first


def show_figure(name: str, draw: Callable[[], go.Figure], frame: pd.DataFrame) -> None:
    """A figure with its alternative text, and under it the same numbers as a table and a file."""
    if frame.empty:
        st.info("Nothing is recorded for this selection yet.")
        return
    st.plotly_chart(draw(), theme=None, width="stretch", key=f"figure-{name}", alt=describe(frame))
    with st.expander("The numbers", icon=":material/table:"):
        st.dataframe(frame, hide_index=True, key=f"table-{name}")
        st.download_button(
            "CSV", frame.to_csv(index=False), f"{name}.csv", "text/csv", key=f"csv-{name}", icon=":material/download:"
        )
