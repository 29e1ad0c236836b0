"""What all pages share: the runs, the chosen ones, and the answers to questions about them.

What is chosen lives in the address, so that a copied link opens the same view (`selection` has what of a run).
"""

import atexit
import gc
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import FunctionType
from typing import Any

import streamlit as st

from analysis.library.runs import Run, open_run
from analysis.library.samples import is_sample
from app.shared import places
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

LIVE_SECONDS = 2.0
"""How often a page of a run that is training looks again, at most."""
LIVE_SHARE = 0.05
"""Of a core, that looking again may take: a page that costs more looks more seldom."""

SYMBOLS = {
    "queued": "◌", "running": "▶", "stopping": "◼", "stopped": "■", "failed": "✕", "finished": "✓",
    "stalled": "◍", "lost": "?", "unreadable": "!",
}  # fmt: skip

SHIPPED = " · comes with this program"
"""Said of a record that does."""

HOW_TO_START = """
Make one in any of three ways:

- on the **Launch** page;
- `make app` in a terminal trains the demo run meanwhile, in about two minutes;
- `python -m ortho_lora train --config examples/demo.yaml --name demo`, or with tasks of your own:
  `python -m ortho_lora train --help` lists every setting.
"""


def plain(text: str) -> str:
    """Untrusted text for a place that renders Markdown; for who may only look, without the paths in it."""
    text = places.without_paths(text)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-.!|~<>$:@" else letter for letter in text)


def with_code(text: str) -> str:
    """The same, where what stands between backticks shows as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(f"`{places.without_paths(part)}`" if at % 2 else plain(part) for at, part in enumerate(parts))


MOST_LEFT_OUT = 5


def left_out(words: str, what: Sequence[str]) -> None:
    """One line on what was passed over, like `Left out: a.txt (a file) and 3 more.`"""
    more = f" and {len(what) - MOST_LEFT_OUT} more" if len(what) > MOST_LEFT_OUT else ""
    st.caption(f"{words}: {', '.join(plain(one) for one in what[:MOST_LEFT_OUT])}{more}.")


def is_dark() -> bool:
    return st.context.theme.type == "dark"


@st.cache_resource(show_spinner=False)
def spare_imports() -> None:
    """Once: leave what is imported out of the garbage collection that Streamlit runs after every look.

    It is never garbage, and going through it takes a tenth of a second: most of what a live page costs.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else DuckDB calls it a leak when the server ends


def choose_runs() -> None:
    """The run that the pages show and those that it is compared with, in the sidebar and in the address."""
    try:
        runs = _unarchived(places.runs())
    except OrthoLoraError as error:
        st.error(plain(str(error)))
        st.stop()
    states, samples = {run.run_id: run.state for run in runs}, {run.run_id for run in runs if is_sample(run.path)}
    if st.session_state.get("run") not in states:
        st.session_state.pop("run", None)
    # Always in the address, also where it is the newest run: another will be the newest tomorrow.
    if states and "run" not in st.session_state and st.query_params.get("run") not in states:
        st.session_state["run"] = _first(runs)
    with st.sidebar:
        chosen = st.selectbox(
            "Run",
            list(states),
            index=None,
            key="run",
            bind="query-params",
            placeholder="no runs yet",
            disabled=not states,
        )
        if chosen:
            st.caption(f"{SYMBOLS[states[chosen]]} {states[chosen]}{SHIPPED if chosen in samples else ''}")
        others = [run.run_id for run in runs if run.info is not None and run.run_id != chosen]
        if "compare" in st.session_state:
            st.session_state["compare"] = [run_id for run_id in st.session_state["compare"] if run_id in others]
        st.multiselect(
            "Compare with",
            others,
            key="compare",
            bind="query-params",
            placeholder="other methods, other seeds",
            disabled=not others,
            help="On the pages that show several runs side by side: Metrics and Diagnosis.",
        )
        if not places.read_only():
            st.caption(f"in {plain(str(default_runs_dir()))}")
        st.button("Look again", icon=":material/refresh:", help="Read the runs directory again.")


def choose_run(run_id: str) -> None:
    """Let all pages show this run; for the callback of a click."""
    st.session_state["run"] = run_id


def _first(runs: list[Run]) -> str:
    """The newest; while nothing of one's own has ended, a shipped one, which has something to show."""
    ended = any(not run.active for run in runs if not is_sample(run.path))
    shown = runs if ended else [run for run in runs if is_sample(run.path)] or runs
    return shown[0].run_id


def _unarchived(runs: list[Run]) -> list[Run]:
    """What there is to choose: not what was put aside, unless that is chosen, or is all there is."""
    session, address = st.session_state, st.query_params
    chosen = {session.get("run"), address.get("run"), *session.get("compare", []), *address.get_all("compare")}
    return [run for run in runs if not run.notes.archived or run.run_id in chosen] or runs


def compared_runs() -> list[Run]:
    """The runs that the chosen one is compared with, in the order chosen."""
    known = {run.run_id: run for run in places.runs()}
    return [known[run_id] for run_id in st.session_state.get("compare", []) if run_id in known]


def current_run() -> Run:
    """The chosen run; where there is none, or it cannot be read, the page says so and ends."""
    if not (run_id := st.session_state.get("run")):
        st.info("There is no run to show yet.")
        st.markdown(HOW_TO_START)
        st.stop()
    try:
        run = open_run(places.home(run_id), run_id)
    except OrthoLoraError as error:
        st.error(plain(str(error)))
        st.stop()
    if run.info is None:
        st.error(plain(run.problem or f"{run.path}: cannot be read."))
        st.stop()
    if run.problem:
        st.warning(plain(run.problem))
    return run


def need_pairs(run: Run) -> None:
    """Where a run has no pair of gradients, say so and end the page."""
    assert run.info is not None
    if run.info.method == "single":
        st.info("This run trained one adapter for each task: no gradients meet, so there is nothing to compare.")
        st.stop()
    if len(run.info.tasks) < 2:
        st.info("This run has one task: a conflict needs two.")
        st.stop()


def live(run: Run, body: Callable[[Run], None], every: float = LIVE_SECONDS) -> None:
    """Show `body`, and while the run trains show it again, until somebody pauses it.

    Args:
        run: of the page.
        body: shows the page of the run as it is now.
        every: so many seconds at least; more where the server needs much of them (`LIVE_SHARE`).
    """
    active = run.active
    follow = active and not st.toggle(
        "Pause",
        key="paused",
        persist_state="session",
        help="This run trains, and the page follows it. Pause to look closely: zoom and selection stay as they are.",
    )
    seconds = max(every, st.session_state.get("live-seconds", 0.0))
    looks = count()

    @st.fragment(run_every=seconds if follow else None)
    def show() -> None:
        again, began = next(looks) > 0, time.process_time()
        try:
            now = open_run(run.path.parent, run.run_id) if active else run
        except OrthoLoraError:  # deleted since the page was opened
            st.rerun()
        if active and not now.active:
            st.rerun()  # the last look: the fragment's clock stops with it
        if active and now.status:
            st.caption(f"{SYMBOLS['running']} {now.status.phase}, {now.status.progress}")
        try:
            body(now)
        except OrthoLoraError as error:
            st.error(plain(str(error)))
        if follow and again:  # the first look is not one that the clock asked for
            needed = (time.process_time() - began) / LIVE_SHARE
            st.session_state["live-seconds"] = needed
            if not seconds / 3 < max(every, needed) < 1.5 * seconds:
                st.rerun()  # for a fragment with another clock

    show()


def ask(question: Callable[..., Any], run: Run, *arguments: Any) -> Any:
    """The answer of a named function of `analysis` on a run's directory, remembered until its record grows."""
    return _answer(question, str(run.path), version(run.path), *arguments)


def ask_of_runs(question: Callable[..., Any], runs: list[Run], *arguments: Any) -> Any:
    """The same for a question to several runs."""
    return _answer_of_runs(question, [str(run.path) for run in runs], [version(run.path) for run in runs], *arguments)


BY_NAME: dict[str | type[Any], Callable[[Any], str]] = {
    FunctionType: lambda function: f"{function.__module__}.{function.__qualname__}"
}
"""How Streamlit's caches are to tell functions apart."""


@st.cache_data(show_spinner=False, max_entries=200, hash_funcs=BY_NAME)
def _answer(question: Callable[..., Any], run: str, version: int, *arguments: Any) -> Any:
    return question(Path(run), *arguments)


@st.cache_data(show_spinner=False, max_entries=50, hash_funcs=BY_NAME)
def _answer_of_runs(question: Callable[..., Any], runs: list[str], versions: list[int], *arguments: Any) -> Any:
    return question([Path(run) for run in runs], *arguments)


def version(run: Path) -> int:
    """A number that changes whenever a run's record does."""
    try:
        return (run / "manifest.json").stat().st_mtime_ns
    except OSError:
        return 0
