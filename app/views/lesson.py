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
from analysis.library.runs import Run, final_metrics, open_run
from analysis.library.samples import DEMO, SAMPLES, is_sample
from analysis.transfer.predicted import transfer_matrix
from app.launching import launcher
from app.shared import figure, places, state
from app.shared.glossary import link
from app.views import exercises, lesson_runs
from app.views.exercises import DIAL, EXERCISES, HARM, OWN_HEAD, UNRELATED, WHY, ZERO
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir

_GOING, _STARTED = "lesson-going", "lesson-started"


def show() -> None:
    st.header("A lesson with real gradients", anchor="lesson")
    st.markdown(
        "Experiments with the packaged model, on film reviews and questions. All runs but the last are `joint`:"
        " nothing is projected, so what you see is what the data do."
    )
    runs = lesson_runs.finished(default_runs_dir())
    if not places.read_only():
        _training(sum(not is_sample(run.path) for run in runs.values()), whole=len(runs) == len(lesson_runs.TASKS))
    exercises.progress()
    dials = {rho: runs[name] for rho, name in lesson_runs.DIAL.items() if name in runs}
    heads = {name: runs[name] for name in (lesson_runs.DIAL[1.0], lesson_runs.OWN_HEAD) if name in runs}
    bodies: tuple[tuple[Callable[[Any], None], Any, int], ...] = (
        (_zero, runs.get(lesson_runs.UNRELATED), 1),
        (_dial, dials, 2),
        (_own_head, heads, 2),
        (_unrelated, runs.get(lesson_runs.UNRELATED), 1),
        (_harm, _demo(), 1),
    )
    for number, ((title, asked), body) in enumerate(zip(EXERCISES.items(), bodies, strict=True), 1):
        _act(f"{number}. {title}", asked[0].key, *body)
    exercises.for_teachers()


def _act(title: str, key: str, body: Callable[[Any], None], runs: Any, needed: int) -> None:
    with st.container(border=True):
        st.subheader(title, anchor=f"lesson-{key}")
        if not runs or (isinstance(runs, dict) and len(runs) < needed):
            st.caption("Its runs are not here." if places.read_only() else "The button above trains its runs.")
            return
        try:
            body(runs)
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))


def _demo() -> Run | None:
    """The demo run that comes with the package."""
    return open_run(SAMPLES, DEMO) if places.samples_wanted() else None


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


# --- the acts ---


def _zero(run: Run) -> None:
    st.markdown("The sizes of gradients on both [branches](learn#block), in the first steps of a real run.")
    guess = ZERO.ask()
    if guess is None:
        return
    norms = state.ask(queries.norms_over_steps, run, Selection(steps=(0, 3)), 4)
    mean = norms.groupby(["branch", "step"])["norm_before"].mean().unstack()
    st.dataframe(
        mean.rename(columns=lambda step: f"step {step}", index=lambda branch: f"branch {branch}"),
        key="lesson-zero-numbers",
        column_config={"branch": "mean norm"}
        | {f"step {step}": st.column_config.NumberColumn(format="%.4f") for step in mean.columns},
    )
    ZERO.tell(guess)


def _dial(runs: dict[float, Run]) -> None:
    st.markdown(
        f"The task `movies` tells good reviews from bad ones. Its [twin]({link('dial')}) sees the same texts in the"
        " same step, but each of its labels is flipped with probability ρ. Both use one head."
    )
    guess = DIAL.ask()
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
    DIAL.tell(guess)


def _own_head(runs: dict[str, Run]) -> None:
    st.markdown(
        f"Now every label of the twin is flipped, ρ = 1, but it gets a [head]({link('head')}) of its own. The labels"
        " contradict each other exactly as much as before."
    )
    guess = OWN_HEAD.ask()
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
    OWN_HEAD.tell(guess)
    why = WHY.ask()
    if why is not None:
        WHY.tell(why)


def _unrelated(run: Run) -> None:
    st.markdown(
        "`trec` tells what a question asks for, `movies` good reviews from bad. Different texts, labels and heads."
    )
    guess = UNRELATED.ask()
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
    UNRELATED.tell(guess)
    whole = matrix[matrix["branch"] == WHOLE].to_dict("records")
    if whole:
        said = verdict_sentence(Agreement.of(whole[0]), shares_texts=False)
        st.markdown(
            f"At the end a [snapshot]({link('snapshot')}) took 64 batches of each task at one place, and multiplied"
            f" gradients of different texts only, which no noise survives. {state.plain(said)}"
        )


def _harm(run: Run) -> None:
    matrix = state.ask(queries.task_matrix, run, Selection())
    pair = matrix[(matrix["branch"] == WHOLE) & (matrix["task_i"] == "trec") & (matrix["task_j"] == "tweets")]
    said = verdict_sentence(Agreement.of(pair.iloc[0].to_dict()), shares_texts=False)
    st.markdown(f"In the demo run, of the mean gradients of `trec` and `tweets` its snapshot says: {state.plain(said)}")
    guess = HARM.ask()
    if guess is None:
        return
    effects = state.ask(transfer_matrix, run)
    figure.show("lesson-harm", partial(figures.effect_heatmap, effects, parts=("nats", "pull", "crowding")), effects)
    HARM.tell(guess)


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
