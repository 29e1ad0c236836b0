"""The answer of a run on one screen: which tasks hurt which, where, since when, and what to do."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.pairs import verdict_sentence
from analysis.diagnosis.verdicts import Agreement, worst_pair, worst_row
from analysis.library.names import snapshots_at
from analysis.library.runs import Run
from analysis.transfer.advice import advised_groups
from analysis.transfer.predicted import counted_steps, over_transfer, says_nats, transfer_matrix, transfer_steps
from analysis.transfer.words import headline, missing, told_of_gain, told_of_groups, trial_of, unit_of
from app.launching.buttons import try_button
from app.shared import figure, links, state
from app.shared.selection import Pair, choose_pair, name_of, select_pair
from app.views import texts


def tells(run: Run) -> bool:
    """Whether it has recorded how tasks agree."""
    info = run.info
    if info is None or info.method == "single" or len(info.tasks) < 2 or (info.probe and info.probe.steps):
        return False
    return bool(state.ask(queries.extent, run).pairs)


def show(run: Run) -> None:
    """The screen; while the run trains it follows."""
    state.live(run, _body)


def _body(run: Run) -> None:
    extent = state.ask(queries.extent, run)
    cosines = state.ask(queries.task_matrix, run, Selection())
    effects = _effects(run)
    if effects is None:
        _by_cosine(run, extent, cosines)
    else:
        _by_nats(run, extent, effects)
    several = effects is not None and len(state.ask(transfer_steps, run)) > 1
    places = iter(st.columns([3, *([3] if several else []), *([2] if effects is not None else [])], gap="medium"))
    with next(places):
        pair = _where(run, extent, cosines, effects)
    if several:
        with next(places):
            _since(run)
    if effects is not None:
        with next(places):
            _to_do(run, effects)
        texts.show(run, pair)


def _effects(run: Run) -> pd.DataFrame | None:
    """Of the run's snapshots; None: nothing is told in nats."""
    if not state.ask(transfer_steps, run):
        return None
    matrix: pd.DataFrame = state.ask(transfer_matrix, run)
    return matrix if says_nats(matrix) else None


def _by_nats(run: Run, extent: Extent, effects: pd.DataFrame) -> None:
    st.markdown(f"#### {state.plain(headline(effects))}")
    left, right = st.columns(2, gap="medium")
    with left:
        draw = partial(figures.effect_heatmap, effects, parts=("nats",))
        figure.show("answer", draw, effects, on_click=partial(_follow, extent))
    with right:
        arrows = partial(figures.transfer_graph, effects, chosen=_chosen(extent))
        alt = f"The same as arrows between tasks. {headline(effects)}"
        figure.show("graph", arrows, effects, alt=alt, on_click=partial(_follow, extent), table=False)
    st.caption(
        "How the row's validation loss, where an arrow leads, moves per step because the column's task, where it comes"
        " from, is trained too: red is harm. Full colour: sure, corrected for the number of pairs. Click a pair to look"
        f" closer. By {snapshots_at(state.ask(counted_steps, run))}."
    )


def _by_cosine(run: Run, extent: Extent, matrix: pd.DataFrame) -> None:
    assert run.info is not None
    row = worst_row(matrix)
    known = Agreement.of(row)
    said = f"{row['task_i']} and {row['task_j']}: {verdict_sentence(known, row['shares_texts'])}"
    st.markdown(f"#### {state.plain(said)}")
    left, right = st.columns(2, gap="medium")
    shown = matrix[matrix["branch"] == WHOLE] if (matrix["branch"] == WHOLE).any() else matrix
    with left:
        draw = partial(figures.task_heatmap, shown, list(extent.tasks), "cosine", chosen=_chosen(extent))
        figure.show("answer", draw, shown, on_click=partial(_follow, extent))
    with right:
        lines = partial(figures.cosine_graph, matrix, chosen=_chosen(extent))
        alt = "The same as lines between tasks, red where they conflict and blue where they agree."
        figure.show("graph", lines, shown, alt=alt, on_click=partial(_follow, extent), table=False)
    st.caption(
        "The [cosine](learn#corrected-cosine) of two tasks' mean gradients; bold, and a full line: the verdict is"
        f" conflict or aligned. In nats: {state.with_code(missing(run.info, held_out=False))}"
    )


def _where(run: Run, extent: Extent, cosines: pd.DataFrame, effects: pd.DataFrame | None) -> Pair:
    st.subheader("Where", anchor=False)
    pair = select_pair(extent, worst_pair(cosines) if effects is None else _worst(extent, effects))
    strip = state.ask(queries.layer_by_layer, run, pair)
    alt = f"Cosine of {name_of(pair)} on each layer and branch."
    figure.show("where", partial(figures.layer_strip, strip), strip, alt=alt)
    with st.container(horizontal=True):
        links.to_evidence(pair, None)
    return pair


def _since(run: Run) -> None:
    st.subheader("Since when", anchor=False)
    over = state.ask(over_transfer, run)
    figure.show("since", partial(figures.effects_over_run, over), over)


def _worst(extent: Extent, effects: pd.DataFrame) -> Pair:
    """The pair with the most harmful effect, a sure one where there is one."""
    others = effects[(effects["source"] != effects["target"]) & effects["nats"].notna()]
    sure = others[others["verdict"] == "harms"]
    worst = (sure if len(sure) else others).nlargest(1, "nats").iloc[0]
    return _named(extent, worst["source"], worst["target"])


def _to_do(run: Run, effects: pd.DataFrame) -> None:
    assert run.info is not None
    st.subheader("What to do", anchor=False)
    with st.spinner("Looking for groups"):
        groups = state.ask(advised_groups, run)
    st.markdown(f"**{state.plain(told_of_groups(groups))}** {state.plain(told_of_gain(groups, *unit_of(effects)))}")
    if trial_of(run.path, run.info):
        try_button(run)
    links.link("transfer", "All groups, weights, and other mixtures")


def _follow(extent: Extent, pair: Sequence[str]) -> None:
    one, other = pair
    if one != other:
        choose_pair(_named(extent, one, other))


def _named(extent: Extent, one: str, other: str) -> Pair:
    """As the record has it."""
    return (one, other) if (one, other) in extent.pairs else (other, one)


def _chosen(extent: Extent) -> Pair | None:
    named: Sequence[Pair] = [pair for pair in extent.pairs if name_of(pair) == st.session_state.get("pair")]
    return named[0] if named else None
