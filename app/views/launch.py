"""Start a run, and watch it train. An address with `again=RUN` comes with the form filled."""

import shlex
from datetime import UTC, datetime

import streamlit as st

from app.launching import buttons, form, launcher, progress, timing
from app.launching.form import fill_form
from app.launching.presets import PRESETS
from app.shared import places, state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import read_limit
from ortho_lora.record.schema import default_runs_dir
from ortho_lora.training.config import Config


def page() -> None:
    st.title("Launch")
    if started := st.session_state.pop("launch-started", None):
        st.session_state["launch-name"] = ""  # the next run needs another; a browser forgets only what is replaced
        # The form is long: whoever sent it does not see the progress above it.
        st.toast(f"**{state.plain(started)}** is launched, at the top of this page.", icon=":material/rocket_launch:")
    if run_id := st.query_params.pop("again", None):
        buttons.fill_from_run(run_id)
    # What comes and goes has places of its own: else the fields below move, and lose what is being typed into them.
    with st.container():
        progress.show()
    st.subheader("A new run")
    with st.container():
        _fill_from()
    config = form.show()
    with st.container():
        _changed()
    _start(config)


def _fill_from() -> None:
    """What the form is filled from: a preset, or a run."""

    def fill() -> None:
        if name := st.session_state["launch-preset"]:
            fill_form(PRESETS[name].settings, name)

    def fill_from_run() -> None:
        if run_id := st.session_state["launch-from"]:
            buttons.fill_from_run(run_id)

    form.begin()
    source = form.source()
    # Both show where the form was filled from, also where that was another page or a button.
    st.session_state["launch-preset"] = source if source in PRESETS else None
    runs = [run.run_id for run in places.runs() if run.info]
    st.session_state["launch-from"] = source if source in runs else None
    left, right = st.columns([3, 2])
    left.segmented_control("Begin with", list(PRESETS), key="launch-preset", on_change=fill)
    right.selectbox(
        "or with the settings of a run",
        runs,
        index=None,
        key="launch-from",
        placeholder="none" if runs else "no runs yet",
        disabled=not runs,
        on_change=fill_from_run,
    )
    if source in PRESETS:
        st.caption(PRESETS[source].about)


def _changed() -> None:
    """What was changed of what the form was filled with."""
    changes = form.changes()
    if not changes:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Changed from **{state.plain(form.source())}**:", width="content")
        for name, (before, now) in changes.items():
            st.badge(f"{form.label(name)}: {state.plain(before)} → {state.plain(now)}", icon=":material/edit:")
        st.button("Put back", key="launch-put-back", icon=":material/undo:", on_click=form.put_back, type="tertiary")


def _start(config: Config | str) -> None:
    """The name, what the run would take, and the button."""
    good = config if isinstance(config, Config) else None
    with st.container(border=True):
        name = st.text_input(
            "Name", key="launch-name", placeholder="the time and the method", help="Letters, digits, '.', '_' and '-'."
        ).strip()
        with st.container(horizontal=True, vertical_alignment="center"):
            pressed = st.button("Start training", type="primary", icon=":material/play_arrow:", disabled=good is None)
            timing.show(good, progress.busy())
        if isinstance(config, str):
            st.error(state.plain(config))
            return
        if (ahead := progress.ahead()) >= (limit := read_limit(default_runs_dir())):
            st.caption(f"It will wait: {ahead} under way or waiting, and {limit} may train at once.")
        if pressed:
            _launch(config, name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.label.replace('@', '-')}")
    with st.expander("The configuration as YAML, and the command that does the same", icon=":material/terminal:"):
        file = f"{name or 'config'}.yaml"
        options = ["--config", file, "--runs-dir", str(default_runs_dir()), *(["--name", name] if name else [])]
        st.code(shlex.join(["python", "-m", "ortho_lora", "train", *options]), language="sh", wrap_lines=True)
        st.code(launcher.as_yaml(config), language="yaml", height=300)
        st.download_button("Download", launcher.as_yaml(config), file, "text/yaml", icon=":material/download:")


def _launch(config: Config, run_id: str) -> None:
    try:
        launcher.start(config, default_runs_dir(), run_id)
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    else:
        st.session_state["launch-started"] = run_id
        st.rerun()
