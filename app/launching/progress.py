"""How the runs that were launched get on: those that wait, start and train, and those that ended lately."""

import streamlit as st

import ortho_lora.launching.queue as queue
from analysis.library.runs import Run, list_runs
from app.launching import ended, launcher, training
from app.launching.buttons import again_button, stop_button
from app.launching.launcher import Launch
from app.shared import state
from ortho_lora.launching.queue import read_limit, write_limit
from ortho_lora.record.schema import default_runs_dir

_WORDS = {
    "starting": "starting: loading data and model",
    "stopping": "stopping",
    "failed": "did not start. This is what it said:",
    "lost": "lost: its process ended while it waited, as when the machine is turned off.",
}


def show() -> None:
    """All of it, kept up to date while something is under way."""
    before = _under_way()
    if before:
        _limit()
        st.fragment(run_every=state.LIVE_SECONDS)(_watch)(before)
    for run in _active():
        training.show(run)
    launches = launcher.launches(default_runs_dir())
    for launch in launches:
        waiting(launch)
    if damaged := queue.damaged(default_runs_dir()):
        state.left_out("Not tickets of the queue, so left out", damaged)
    ended.show({*(run_id for run_id, *_ in before), *(launch.run_id for launch in launches)})


def _watch(before: list[tuple[str, str, int | None]]) -> None:
    """Show the page anew where a run has begun or ended, or moved up in the queue."""
    if _under_way() != before:
        st.rerun()


def busy() -> int:
    """How many runs train."""
    return len(_active())


def ahead() -> int:
    """How many runs train, start or wait."""
    return len(_under_way())


def _active() -> list[Run]:
    return [run for run in list_runs(default_runs_dir()) if run.active]


def _under_way() -> list[tuple[str, str, int | None]]:
    """Name, state and place in the queue."""
    launches = [launch for launch in launcher.launches(default_runs_dir()) if launch.alive]
    return [(run.run_id, "active", None) for run in _active()] + [
        (launch.run_id, launch.state, launch.place) for launch in launches
    ]


def _limit() -> None:
    head, field = st.columns([4, 1], vertical_alignment="bottom")
    head.subheader("Under way")
    st.session_state["launch-limit"] = read_limit(default_runs_dir())
    field.number_input(
        "Train at once",
        1,
        64,
        key="launch-limit",
        help="More runs than these wait for their turn, in the order in which they were launched.",
        on_change=lambda: write_limit(default_runs_dir(), st.session_state["launch-limit"]),
    )


def waiting(launch: Launch) -> None:
    """A launch that has not begun to record: its place, or what went wrong."""
    name = state.plain(launch.run_id)
    words = _WORDS.get(launch.state, "")
    if launch.place is not None:
        words = f"queued, {'the next one' if launch.place == 1 else f'at place {launch.place}'}"
    elif launch.host is not None:
        words = f"{launch.state} on host {state.plain(launch.host)}"
    if launch.resumes and launch.state == "failed":
        words = "did not go on. This is what it said:"
    with st.container(border=True):
        if launch.alive:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{name}** · {state.SYMBOLS.get(launch.state, '▶')} {words}", width="stretch")
                label = "Take out" if launch.state == "queued" else "Stop"
                stop_button(launch.run_id, label, asked=launch.state == "stopping")
                if launch.host is not None:
                    _dismiss_button(launch)
            return
        st.error(f"**{name}** {words}")
        if launch.output:
            st.code(launch.output, language=None)
        with st.container(horizontal=True):
            again_button(launch.run_id)
            _dismiss_button(launch)


def _dismiss_button(launch: Launch) -> None:
    if st.button("Dismiss", key=f"dismiss-{launch.run_id}"):
        launcher.dismiss(default_runs_dir(), launch.run_id)
        st.rerun()
