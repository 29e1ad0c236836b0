"""The guided lesson: questions before answers, and the answers from real runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from analysis import figures
from analysis.conflict import dial, queries
from analysis.conflict.queries import Selection
from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement
from analysis.figures.dial import dial_lines
from analysis.library.runs import Run, final_metrics
from analysis.library.samples import is_sample
from app.launching import launcher
from app.shared import figure, places, state
from app.shared.glossary import link
from app.views import lesson_runs
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

_GOING, _STARTED = "lesson-going", "lesson-started"


def show() -> None:
    st.header("A lesson with real gradients", anchor="lesson")
    st.markdown(
        "Three experiments with the packaged model, on film reviews and questions. All runs are `joint`: nothing is"
        " projected, so what you see is what the data do."
    )
    runs = lesson_runs.finished(default_runs_dir())
    if not places.read_only():
        _training(sum(not is_sample(run.path) for run in runs.values()), whole=len(runs) == len(lesson_runs.TASKS))
    _act(1, "Turn the dial", _dial, {rho: runs[name] for rho, name in lesson_runs.DIAL.items() if name in runs}, 2)
    heads = {name: runs[name] for name in (lesson_runs.DIAL[1.0], lesson_runs.OWN_HEAD) if name in runs}
    _act(2, "The same quarrel, two heads", _own_head, heads, 2)
    _act(3, "Two tasks that have nothing to do with each other", _unrelated, runs.get(lesson_runs.UNRELATED), 1)


def _act(number: int, title: str, body: Callable[[Any], None], runs: Any, needed: int) -> None:
    with st.container(border=True):
        st.markdown(f"### {number}. {title}")
        if not runs or (isinstance(runs, dict) and len(runs) < needed):
            st.caption("Its runs are not here." if places.read_only() else "The button above trains its runs.")
            return
        try:
            body(runs)
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))


# --- training ---


def _training(before: int, *, whole: bool) -> None:
    """Train the reader's own runs, of which so many are done; `whole`: without them the lesson has those shipped."""
    runs_dir = default_runs_dir()
    total = len(lesson_runs.TASKS)
    if before == total:
        return
    active = any(run.active for run in lesson_runs.standing(runs_dir).values())
    # A lesson that trains goes on after a reload.
    watched = st.session_state.setdefault(_GOING, active)

    @st.fragment(run_every=state.LIVE_SECONDS if watched else None)
    def look() -> None:
        stands = lesson_runs.standing(runs_dir)
        now = [run for run in stands.values() if run.active]
        done = sum(run.state == "finished" for run in stands.values())
        if done != before:
            st.rerun()
        if not now:
            _go_on(runs_dir)
        part = sum(run.status.step / run.status.total for run in now if run.status and run.status.total)
        minutes = max(round((total - done - part) * lesson_runs.seconds_a_run(stands.values()) / 60), 1)
        if st.session_state[_GOING]:
            doing = now[0].run_id if now else "the next run is starting"
            head, button = st.columns([5, 1], vertical_alignment="center")
            head.progress((done + part) / total, f"{done} of {total} runs done, about {minutes} min left · {doing}")
            if button.button("Pause", icon=":material/pause:", help="After this run."):
                _set_going(False)
        else:
            words = "Go on" if done else f"Train {'your own' if whole else 'the'} {total} runs of the lesson"
            kind: Literal["primary", "secondary"] = "secondary" if whole else "primary"
            if st.button(f"{words}, about {minutes} min", type=kind, icon=":material/play_arrow:"):
                _set_going(True)
            shipped = "What you see below comes with this program. " if whole else ""
            st.caption(
                f"{shipped}Runs train one after another, as processes of their own; read on, or leave and come back."
            )

    look()


def _set_going(going: bool) -> None:
    st.session_state[_GOING] = going
    st.session_state.pop(_STARTED, None)
    st.rerun()  # of the page: it says how often the fragment looks


def _go_on(runs_dir: Path) -> None:
    """Start the next run, unless the one that was started is still loading, or did not get that far."""
    started: str | None = st.session_state.get(_STARTED)
    if started and not (runs_dir / started).exists():
        if not lesson_runs.alive(runs_dir, started):
            st.session_state[_GOING] = False
            st.error(f"**{started}** did not start. This is what it said:")
            output = launcher.tail(runs_dir / ".launch" / f"{started}.log", 12)
            st.code(output or "nothing", language=None)
    elif st.session_state[_GOING]:
        try:
            st.session_state[_STARTED] = lesson_runs.start_next(runs_dir)
        except OrthoLoraError as error:
            st.warning(state.plain(str(error)))


# --- the three acts ---


def _asked(question: str, choices: list[str], key: str) -> str | None:
    """The reader's answer, None before there is one."""
    chosen: str | None = st.radio(question, choices, index=None, key=f"lesson-{key}", persist_state="session")
    return chosen


def _dial(runs: dict[float, Run]) -> None:
    st.markdown(
        f"The task `movies` tells good reviews from bad ones. Its [twin]({link('dial')}) sees the same texts in the"
        " same step, but each of its labels is flipped with probability ρ. Both use one head."
    )
    guess = _asked(
        "Half of the labels flipped, ρ = 0.5: where will the cosine of the two gradients lie?",
        ["near -1: they disagree on half of all texts", "near -0.5", "near 0", "near +0.5"],
        "dial",
    )
    if guess is None:
        return
    frame = _answers({rho: (str(run.path), state.version(run.path)) for rho, run in runs.items()})
    known = sorted(frame["rho"].unique())
    rho = st.select_slider(
        "The dial: labels flipped, ρ", known, value=known[-1], key="lesson-rho", persist_state="session"
    )
    told = "Cosine, projection and accuracy against the share of flipped labels."
    figure.show("lesson-dial", partial(dial_lines, frame, rho), frame, alt=told)
    here = frame[frame["rho"] == rho]
    one = here.iloc[0]
    shown = {f"Cosine on {row.branch}": f"{row.cosine:+.2f}" for row in here.itertuples()} | {
        "Norm removed": f"{one['removed']:.0%}",
        "Task's accuracy": f"{one['original']:.0%}",
        "Twin's accuracy": f"{one['twin']:.0%}",
    }
    for column, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
        column.metric(label, value)
    right = guess == "near 0"
    st.markdown(
        ("Right: " if right else "Not so: ")
        + "half of the texts pull together and half apart, so the sum of it is about 1 - 2ρ = 0, with a scatter from"
        " the few texts of a batch. At ρ = 1 all that one gradient asks, the other forbids: projection removes nearly"
        " all of both, and the plain sum cancels. **No method can learn both through one head.**"
    )


def _own_head(runs: dict[str, Run]) -> None:
    st.markdown(
        f"Now every label of the twin is flipped, ρ = 1, but it gets a [head]({link('head')}) of its own. The labels"
        " contradict each other exactly as much as before."
    )
    guess = _asked(
        "What will the two gradients on the shared adapter do?",
        ["conflict as before, near -1", "conflict half as much", "agree after a few steps"],
        "own-head",
    )
    if guess is None:
        return
    for column, (name, run) in zip(st.columns(len(runs)), runs.items(), strict=True):
        with column:
            own = name == lesson_runs.OWN_HEAD
            st.markdown("**A head of its own**" if own else "**One head for both**")
            _pair_lines(run, name)
            assert run.info is not None
            values = final_metrics(run.path, run.info.tasks)
            st.caption(
                "Accuracy at the end: " + ", ".join(f"{task} {value:.0%}" for task, value in values.items()) + "."
            )
    st.markdown(("Right: " if guess.startswith("agree") else "Not so: ") + "with two heads they come to agree.")
    why = _asked(
        "Why?",
        [
            "the adapter learns to ignore the twin",
            "the second head learns the opposite sign, so both ask the adapter for the same thing",
            "AdamW cancels the conflict",
        ],
        "why",
    )
    if why is not None:
        st.markdown(
            ("Right: " if why.startswith("the second head") else "Not so: the second head learns the opposite sign. ")
            + "To tell good from bad is one skill, whatever the answer is called. Once the twin's head has turned its"
            " sign, both tasks ask the adapter to separate the same texts. **Conflict lives in what the shared adapter"
            " must represent, not in the labels.**"
        )


def _unrelated(run: Run) -> None:
    st.markdown(
        "`trec` tells what a question asks for, `movies` good reviews from bad. Different texts, labels and heads."
    )
    guess = _asked(
        "In which share of steps and matrices will their cosine be below 0, a “conflict”?",
        ["about 5%: they have nothing to quarrel about", "about 20%", "about 50%"],
        "unrelated",
    )
    if guess is None:
        return
    matrix = state.ask(queries.task_matrix, run, Selection())
    noise = state.ask(queries.noise, run, Selection())
    _pair_lines(run, lesson_runs.UNRELATED)
    shown = ["branch", "rate_before", "rate_low", "rate_high", "cos_before"]
    st.dataframe(
        matrix.loc[matrix["branch"] != WHOLE, shown],
        hide_index=True,
        key="lesson-unrelated-numbers",
        column_config={
            "branch": "Branch",
            "rate_before": st.column_config.NumberColumn("Conflict rate", format="percent"),
            "rate_low": st.column_config.NumberColumn("from (95%)", format="percent"),
            "rate_high": st.column_config.NumberColumn("to", format="percent"),
            "cos_before": st.column_config.NumberColumn("Mean batch cosine", format="%+.3f"),
        },
    )
    same = ", ".join(
        f"{row.task} {row.same_task_cosine:+.2f} on {row.branch}"
        for row in noise.itertuples()
        if pd.notna(row.same_task_cosine)
    )
    st.caption(f"Baseline, two halves of one task's own batch: cosine {state.plain(same)}.")
    st.markdown(
        ("Right: " if guess.startswith("about 50%") else "Not so: ")
        + "about half. A batch's gradient is mostly [noise]("
        + link("noise")
        + "), which scatters around a right angle,"
        " and half of what scatters around 0 is negative. Projection would be at work in half of all measurements, on"
        f" chance. **Read a [conflict rate]({link('conflict-rate')}) only beside the [verdict]({link('verdict')})**."
    )
    whole = matrix[matrix["branch"] == WHOLE].to_dict("records")
    if whole:
        said = verdict_sentence(Agreement.of(whole[0]), shares_texts=False)
        st.markdown(
            f"At the end a [snapshot]({link('snapshot')}) took 64 batches of each task at one place, and multiplied"
            f" gradients of different texts only, which no noise survives. {state.plain(said)}"
        )


def _pair_lines(run: Run, name: str) -> None:
    pair = state.ask(queries.extent, run).pairs[0]
    steps = state.ask(queries.pair_over_steps, run, pair, Selection())
    figure.show(name, partial(on_one_scale, steps, pair), steps)


def on_one_scale(steps: pd.DataFrame, pair: tuple[str, str], *, dark: bool) -> go.Figure:
    """The lines of a pair, so that what is beside each other can be compared."""
    return figures.pair_lines(steps, pair, dark=dark).update_yaxes(range=[-1.05, 1.05])


@st.cache_data(show_spinner="Replaying the runs of the dial …", max_entries=5)
def _answers(runs: dict[float, tuple[str, int]]) -> pd.DataFrame:
    return dial.answers({rho: Path(path) for rho, (path, _) in runs.items()})
