"""In which layers, modules and steps does a pair of tasks conflict?"""

from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Extent, Selection
from analysis.diagnosis.verdicts import worst_pair
from analysis.figures.heatmaps import When
from analysis.figures.layers import Block
from analysis.library.runs import Run
from app.shared import address, figure, scale, state
from app.shared.selection import Pair, choose_pair, name_of, of_pair, select_matrix, select_pair
from ortho_lora.record.layers import layer_name

MOST_CELLS = 100_000
"""That a figure brings to the browser."""
LISTED = 12


def page() -> None:
    st.title("Layers")
    run = state.current_run()
    state.need_pairs(run)
    state.live(run, _body)


def _body(run: Run) -> None:
    if (selected := select_matrix(run)) is None:
        return
    extent, selection, matrix = selected
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pair = select_pair(extent, worst_pair(matrix))
        when = scale.choose_moments() if extent.of_steps else ()
        limit = scale.choose_limit()
    if extent.snapshots:
        _snapshots(run, selection, pair, limit, several=len(extent.snapshots) > 1)
    if not extent.of_steps:
        return
    if extent.snapshots:
        st.header("What the rule saw, step by step", anchor=False)
    st.caption(
        "Red is [conflict](learn#conflict); hatched grey is not measured, as branch A at step 0, where its gradient is"
        " zero. Branches A and B are the two matrices of an [adapted layer](learn#adapter), which adds B A x to its"
        " output; their maps zoom together."
    )

    st.subheader("Layer by layer", anchor=False)
    rows = max(len(extent.layers), 1) * 2 * len(when)
    layers = state.ask(queries.layer_step, run, pair, selection, _bins(rows, 120))
    figure.show(
        "layer-by-step",
        partial(figures.layer_step_heatmap, layers, when=when, limit=limit),
        layers,
    )
    _blocks(run, extent, selection, pair, when[0] if len(when) == 1 else "before", limit)


def _snapshots(run: Run, selection: Selection, pair: Pair, limit: float, *, several: bool) -> None:
    """Where the mean gradients of a pair agree."""
    st.subheader("Where, without noise", anchor=False)
    st.markdown(
        "The [cosine](learn#corrected-cosine) of the pair's mean gradients of the [snapshot](learn#snapshot). **▼** and"
        " **▲**: a [verdict](learn#verdict), corrected for the number of cells. Hatched: only an interval is known."
    )
    blocks_of = replace(selection, steps=None)
    maps = {"snapshot-blocks": ("All snapshots together, module by module.", queries.snapshot_blocks)}
    if several:
        maps = {"snapshot-layers": ("Snapshot by snapshot.", queries.snapshot_layers)} | maps
    for name, (words, question) in maps.items():
        if several:
            st.markdown(words)
        frame = of_pair(state.ask(question, run, blocks_of), pair)
        figure.show(name, partial(figures.snapshot_map, frame, limit=limit), frame)


def _bins(rows: int, most: int) -> int:
    return max(min(most, MOST_CELLS // rows), 1)


def _blocks(run: Run, extent: Extent, selection: Selection, pair: Pair, when: When, limit: float) -> None:
    everywhere = state.ask(queries.blocks, run, selection)
    clear = of_pair(everywhere, pair)[["branch", "layer", "module", "clear", "verdict"]]
    blocks = state.ask(queries.module_layer, run, pair, selection).merge(
        clear, how="left", on=["branch", "layer", "module"]
    )
    st.subheader("Block by block", anchor=False)
    st.markdown(
        "A [block](learn#block) is one matrix of one adapted layer; cosines are of batches. **▼** and **▲**: the pair's"
        " [verdict](learn#verdict), where this block alone shows it. Click a cell, or a row of the list, to follow its"
        " block."
    )
    space = st.container()
    st.subheader("One block", anchor=False)
    block = _select_block(blocks)
    with space:
        figure.show(
            "block-by-block",
            partial(figures.block_heatmap, blocks, when=when, chosen=block, limit=limit),
            blocks,
            on_click=lambda block: _choose_block(*block),
        )
        _worst(everywhere)
        figure.below(
            "modules",
            partial(_modules, run, selection, pair, when, limit, _bins(len(blocks), 60)),
            label="Each kind of module over the steps",
            icon="grid_view",
        )
    if block is not None:
        _block(run, extent, selection, pair, block)


def _modules(run: Run, selection: Selection, pair: Pair, when: When, limit: float, bins: int) -> None:
    modules = state.ask(queries.module_layer_step, run, pair, selection, bins)
    figure.show("modules-by-step", partial(figures.module_heatmaps, modules, when=when, limit=limit), modules)


def _worst(everywhere: pd.DataFrame) -> None:
    """The blocks and pairs with the lowest mean batch cosines of the run."""
    worst = everywhere.nsmallest(LISTED, "cos").reset_index(drop=True)
    st.markdown("**Lowest batch cosines, of all pairs**")

    def chosen() -> None:
        if rows := st.session_state["worst"].selection.rows:
            row = worst.loc[rows[0]]
            choose_pair((row["task_i"], row["task_j"]))
            _choose_block(row["branch"], row["layer"], row["module"])

    st.dataframe(
        worst.assign(
            pair=[name_of(pair) for pair in zip(worst["task_i"], worst["task_j"], strict=True)],
            layer=worst["layer"].map(layer_name),
        ),
        key="worst",
        on_select=chosen,
        selection_mode="single-row",
        hide_index=True,
        column_order=["pair", "branch", "layer", "module", "cos", "verdict", "clear"],
        column_config={
            "cos": st.column_config.NumberColumn("batch cosine", format="%+.3f"),
            "verdict": st.column_config.TextColumn("verdict on the pair"),
            "clear": st.column_config.CheckboxColumn(
                "on this block alone", help="Whether the block shows it too, corrected for their number."
            ),
        },
    )


def _select_block(blocks: pd.DataFrame) -> Block | None:
    """The block that the rest of the page is about; None until one is chosen."""
    known = {
        _block_name(*block): block for block in blocks[["branch", "layer", "module"]].itertuples(index=False, name=None)
    }
    if st.session_state.get("block") not in known:
        st.session_state["block"] = None
    chosen = st.selectbox("Block", list(known), index=None, key="block", placeholder="Choose one, or click a cell")
    address.say(block=[] if chosen is None else [chosen])
    return None if chosen is None else known[chosen]


def _choose_block(branch: str, layer: int, module: str) -> None:
    st.session_state["block"] = _block_name(branch, layer, module)


def _block_name(branch: str, layer: int, module: str) -> str:
    return f"{module} {branch}, layer {layer_name(layer)}"


def _block(run: Run, extent: Extent, selection: Selection, pair: Pair, block: Block) -> None:
    branch, layer, module = block
    only = replace(selection, layers=(layer,), modules=(module,), branches=(branch,))
    history = state.ask(queries.pair_over_steps, run, pair, only)
    if history.empty:
        st.info("Nothing is recorded of this block for this selection yet.")
        return
    step = _select_step(extent, int(history["step"].iloc[-1]))
    st.markdown(f"**{state.plain(_block_name(*block))}** over the steps; click a step to see it in full.")
    figure.show(
        "block-history",
        partial(figures.pair_lines, history, pair, step),
        history,
        on_click=_choose_step,
    )
    st.markdown(
        f"**Step {step}**, all tasks on this block: its [Gram matrix](learn#gram-matrix) as cosines, and on the"
        " diagonal norms."
    )
    full = state.ask(queries.one_step, run, step, replace(only, steps=None))
    if full.empty:
        st.info(f"Step {step} has no record of this block: choose one that has.")
    else:
        figure.show("one-step", partial(figures.gram_heatmap, full, list(extent.tasks)), full)


def _select_step(extent: Extent, last: int) -> int:
    assert extent.first is not None
    assert extent.last is not None
    if not extent.first <= st.session_state.get("step", -1) <= extent.last:
        st.session_state["step"] = last
    step = int(st.number_input("Step", extent.first, extent.last, key="step", width=200))
    address.say(step=[step])
    return step


def _choose_step(step: int) -> None:
    st.session_state["step"] = step
