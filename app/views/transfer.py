"""What does training on one task do to another's validation loss, and what would another mixture do?"""

from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.figures.heatmaps import WITH_NUMBERS
from analysis.library.names import number, snapshots_at
from analysis.library.runs import Run
from analysis.transfer.advice import advised_groups, advised_weights
from analysis.transfer.compared import agreement, compared, predictors
from analysis.transfer.predicted import counted_steps, says_nats, target_progress, transfer_matrix, transfer_steps
from analysis.transfer.realized import realized_matrix
from analysis.transfer.words import (
    ADVICE,
    MEANING,
    REALIZED,
    TRIAL,
    missing,
    told_of_agreement,
    told_of_groups,
    told_of_targets,
    trial_of,
    unit_of,
)  # fmt: skip
from app.launching import controls, launcher
from app.shared import address, figure, glossary, places, state
from app.shared.address import HEAVIEST
from app.shared.selection import select_snapshot

PARTS: dict[str, tuple[figures.effects.Part, ...]] = {
    "Effect": ("nats",),
    "Pull": ("pull",),
    "Crowding": ("crowding",),
    "All three": ("nats", "pull", "crowding"),
}


COMPARED = {"First order": "odd", "All of it": "difference"}
"""Parts of a lookahead: a snapshot predicts the first."""


def page() -> None:
    st.title("Transfer", help=glossary.help("transfer", "pull"))
    run = state.current_run()
    state.need_pairs(run)
    state.live(run, _body)


def _realized(run: Run) -> None:
    """What a lookahead found."""
    matrix = state.ask(realized_matrix, run)
    if matrix.empty:
        st.info("No draw of this lookahead is complete yet.")
        return
    steps, draws, reliable, ceiling = (matrix[name].iloc[0] for name in ("steps", "draws", "reliability", "ceiling"))
    st.caption(
        f"{REALIZED} All {steps} steps together, mean of {draws} draws; two means of so many draws would correlate by"
        f" {number(reliable)}, and what really is with this one by {number(ceiling)}. Bold and in full colour: sure."
    )
    moment = f"in {steps} steps"
    draw = partial(figures.effect_heatmap, matrix, parts=("nats", "odd", "even"), moment=moment)
    figure.show("realized", draw, matrix)
    _compared(run)


def _compared(run: Run) -> None:
    """Beside what a snapshot at that place predicted."""
    st.subheader("Was it predicted?", anchor=False)
    snapshots = predictors(run.path)
    if not snapshots:
        st.info("No snapshot with held-out texts is where it begins: probe the checkpoint of its run, on its page.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by = snapshots[0]
        if len(snapshots) > 1:
            by = st.selectbox(
                "By", snapshots, format_func=lambda path: path.name, key="predicted-by", bind="query-params"
            )
        part = st.segmented_control(
            "Part", list(COMPARED), default=next(iter(COMPARED)), required=True, key="came", bind="query-params"
        )
    frame = state.ask(compared, run, by)
    rows = frame[frame["part"] == COMPARED[part]]
    st.caption(
        f"The pull that {state.plain(by.name)} predicts against what came; a cross is a pair with its 95% intervals."
        " Crowding takes hundreds of steps to come, and is left out."
    )
    words = f"{len(rows)} predicted effects against what came in real steps."
    figure.show("predicted-realized", partial(figures.predicted_and_realized, rows), rows, alt=words)
    told = next((one for one in agreement(frame) if one.part == COMPARED[part]), None)
    if told is not None:
        st.markdown(f"- {state.plain(told_of_agreement(told))}")


def _body(run: Run) -> None:
    assert run.info is not None
    if run.info.probe is not None and run.info.probe.steps:
        _realized(run)
        return
    steps: list[int] = state.ask(transfer_steps, run)
    if not steps:
        st.info(state.with_code(missing(run.info, held_out=False)))
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        at = select_snapshot(steps) if len(steps) > 1 else None
        few = len(run.info.tasks) <= WITH_NUMBERS
        default = "All three" if few else "Effect"
        shown = st.segmented_control(
            "Shown", list(PARTS), default=default, required=True, key="parts", bind="query-params"
        )
    matrix = state.ask(transfer_matrix, run, at)
    if not says_nats(matrix):
        st.info(state.with_code(missing(run.info, held_out=True)))
        return
    st.caption(
        f"{MEANING} Bold and in full colour: sure, corrected for the number of pairs. By"
        f" {snapshots_at(state.ask(counted_steps, run, at))}."
    )
    figure.show("transfer", partial(figures.effect_heatmap, matrix, parts=PARTS[shown]), matrix)
    now = state.ask(target_progress, run, None, at)
    if not few:  # else the matrix has its numbers in it
        st.markdown("\n".join(f"- {state.plain(line)}" for line in told_of_targets(matrix, now)))
    _advice(run, at, *unit_of(matrix))
    _mixture(run, at, now)
    if launcher.can_probe(run):
        st.subheader("Does it come true?", anchor=False)
        controls.measuring(run)


def _advice(run: Run, at: int | None, factor: float, unit: str) -> None:
    """Who should share an adapter, and how to weigh losses."""
    with st.spinner("Looking for groups and weights"):
        groups, (weights, gain) = state.ask(advised_groups, run, at), state.ask(advised_weights, run, at)
    st.subheader("Who should share an adapter", anchor=False)
    st.markdown(f"**{state.plain(told_of_groups(groups))}**")
    numbers = {
        "gain": f"{unit} a step",
        "low": "95% from",
        "high": "to",
        "elsewhere": "on other texts",
    }
    shown = groups.assign(**{name: factor * groups[name] for name in numbers})
    figure.numbers(
        "groups",
        shown,
        column_config={name: st.column_config.NumberColumn(label, format="%+.2f") for name, label in numbers.items()},
    )
    st.subheader("How to weigh the losses of one adapter", anchor=False)
    low, high = factor * gain["low"], factor * gain["high"]
    st.markdown(
        f"Weighed so: {factor * gain['gain']:+.2f} {unit} a step ({low:+.2f} to {high:+.2f}), on other texts"
        f" {factor * gain['elsewhere']:+.2f}."
    )
    two = {name: st.column_config.NumberColumn(format="%.2f") for name in ("weight", "advised")}
    figure.numbers("weights", weights, column_config=two)
    st.caption(ADVICE)
    assert run.info is not None
    if not places.read_only() and (trial := trial_of(run.path, run.info)):
        st.markdown(TRIAL)
        st.code(trial, language="sh", wrap_lines=True)


def _mixture(run: Run, at: int | None, now: pd.DataFrame) -> None:
    """How each target would do with other weights."""
    assert run.info is not None
    st.subheader("Another mixture", anchor=False)
    st.caption("Weigh a task 0 to leave it out. One step from here, not a whole training.")
    own = {task.name: float(task.loss_weight) for task in run.info.tasks}
    left, right = st.columns([1, 3], gap="large")
    with left:
        asked = _weigh(run.run_id, own)
    alone = now.drop(columns=["nats", "low", "high"]).rename(
        columns={"alone": "nats", "alone_low": "low", "alone_high": "high"}
    )
    shown = {"this run's mixture": now, "alone": alone}
    if asked != own:
        shown = {"your mixture": target_progress(run.path, asked, at)} | shown
    with right:
        frame = pd.concat([of.assign(mixture=name) for name, of in shown.items()], ignore_index=True)
        words = f"How each target's validation loss moves a step in {', '.join(shown)}, with 95% intervals."
        figure.show("progress", partial(figures.progress_dots, shown), frame, alt=words)


def _weigh(run_id: str, own: dict[str, float]) -> dict[str, float]:
    """The weights that one asks about, which the address says where they are not the run's own."""
    chosen = st.session_state.get("mixture", {})
    wanted = own | {task: weight for task, weight in chosen.items() if task in own}
    # An editor keeps what changed of the table that it was made of, so it gets another only for what a link says.
    kept = st.session_state.get("mixture-editor")
    if kept is None or kept["key"] not in st.session_state or (kept["run"], kept["now"]) != (run_id, wanted):
        count = kept["count"] + 1 if kept else 0
        kept = {"run": run_id, "table": wanted, "count": count, "key": f"mixture-editor-{count}"}
    edited = st.data_editor(
        pd.DataFrame({"task": list(kept["table"]), "weight": list(kept["table"].values())}),
        key=kept["key"],
        hide_index=True,
        disabled=["task"],
        column_config={"weight": st.column_config.NumberColumn(min_value=0.0, max_value=HEAVIEST, required=True)},
    )
    now = dict(zip(edited["task"], edited["weight"].fillna(0.0), strict=True))
    st.session_state["mixture-editor"] = kept | {"now": now}
    st.session_state["mixture"] = {task: weight for task, weight in now.items() if weight != own[task]}
    address.say(mixture=[f"{task}:{weight:g}" for task, weight in st.session_state["mixture"].items()])
    return now
