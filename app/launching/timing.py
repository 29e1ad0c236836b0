"""How long a run would take: a few of its steps, timed by a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

import streamlit as st
from pydantic import ValidationError

from app.launching import launcher
from app.shared import state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.processes import environment
from ortho_lora.training.config import Config
from ortho_lora.training.estimate import Estimate

LONGEST = 180.0
"""Seconds after which an estimate is given up."""


def show(config: Config | None, busy: int) -> None:
    """A button that times a few steps, and what they said of this configuration.

    Args:
        config: None where it is refused.
        busy: runs that train now, and slow the timed steps.
    """
    if st.button(
        "Estimate the time",
        icon=":material/timer:",
        disabled=config is None,
        help="Loads the model, and times a few steps and a part of an evaluation.",
    ):
        assert config is not None
        with st.spinner("Timing a few steps ...", show_time=True):
            try:
                st.session_state["launch-estimate"] = (_timed(config), estimate(config), busy)
            except OrthoLoraError as error:
                st.session_state.pop("launch-estimate", None)
                st.error(state.plain(str(error)))
    if config is None or "launch-estimate" not in st.session_state:
        return
    timed, found, was_busy = st.session_state["launch-estimate"]
    if timed != _timed(config):
        st.caption("The form was changed since the time was estimated.")
        return
    st.markdown(
        f"**About {duration(found.total(config))}**: {found.step:.2f} s a step,"
        f" {found.evaluation:.1f} s an evaluation, {found.loading:.0f} s to load."
    )
    if was_busy:
        st.caption(f"Timed while {was_busy} {'run' if was_busy == 1 else 'runs'} trained: alone it is faster.")


def estimate(config: Config, longest: float = LONGEST) -> Estimate:
    """What the parts of a run take, timed by `python -m ortho_lora estimate`.

    Raises:
        OrthoLoraError: the configuration is refused, or it took longer than `longest` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.yaml"
        settings.write_text(launcher.as_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "ortho_lora", "estimate", "--config", str(settings), "--json"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=longest, env=environment()
            )
        except subprocess.TimeoutExpired:
            raise OrthoLoraError(f"no estimate within {longest:.0f} s: the model or the machine is slow.") from None
    try:
        return Estimate.model_validate_json(done.stdout)
    except ValidationError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise OrthoLoraError(f"no estimate: {said[-1].removeprefix('error: ')}") from None


def duration(seconds: float) -> str:
    """Like `40 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _timed(config: Config) -> Config:
    """What an estimate is of: the number of steps and of evaluations only multiplies it."""
    return config.model_copy(
        update={"steps": 1, "eval_every": 1, "warmup_steps": 0, "checkpoint_every": None, "snapshots": 0}
    )
