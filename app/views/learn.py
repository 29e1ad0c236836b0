"""What is a gradient conflict, and what does projection do about it?"""

import numpy as np
import streamlit as st

from analysis.conflict import plane, queries
from analysis.library.runs import Run, open_run
from analysis.statistics.series import Floats
from app.playground import LARGEST, playground
from app.shared import glossary, places, state
from app.views import lesson, noise_lab
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import layer_name
from ortho_lora.record.schema import groups_text

Loaded = tuple[str, list[str], Floats]
"""Where the arrows of a run come from, in words, the names of its tasks, and the arrows."""


def page() -> None:
    st.title("Learn")
    st.markdown(
        "Several tasks train one adapter. Each has a gradient, the direction in which its loss rises; a step goes"
        " against the sum of them. Where two gradients point against each other, a step for one undoes a step for the"
        " other. Move them, and see what a rule makes of it; then watch real ones."
    )
    st.header("Playground", anchor="playground")
    playground(*(_from_run() or ()), key="playground")
    noise_lab.show()
    lesson.show()
    _show_glossary()


def _from_run() -> Loaded | None:
    """A step of the chosen run, where the reader asks for one."""
    with st.expander("Load from a run: a real step's gradients", icon=":material/download:"):
        run = _chosen_run()
        if run is None:
            st.caption("Choose a run in the sidebar that has trained two tasks at once; the lesson below makes some.")
            return None
        name = state.plain(run.run_id)
        if not st.toggle(f"Show gradients of **{name}**", key="learn-load", persist_state="session"):
            return None
        try:
            return _step_of(run)
        except OrthoLoraError as error:
            st.warning(state.plain(str(error)))
            return None


def _chosen_run() -> Run | None:
    if not (run_id := st.session_state.get("run")):
        return None
    try:
        run = open_run(places.home(run_id), run_id)
    except OrthoLoraError:
        return None
    return run if run.info and run.info.method != "single" and len(run.info.tasks) > 1 else None


def _step_of(run: Run) -> Loaded | None:
    extent = state.ask(queries.extent, run)
    if not extent.of_steps or run.info is None:
        st.caption("No gradients are recorded yet.")
        return None
    left, middle, right = st.columns([2, 2, 3])
    met = next((group for group in run.info.groups or () if len(group) > 1), extent.tasks)
    st.session_state["learn-tasks"] = [
        task for task in st.session_state.get("learn-tasks", met[-2:]) if task in extent.tasks
    ]
    tasks = left.multiselect("Tasks, two or three", extent.tasks, max_selections=LARGEST, key="learn-tasks")
    every = int(run.info.config.get("record_every", 1))
    if extent.first < extent.last:
        step = middle.slider("Step", extent.first, extent.last, extent.last, every, key=f"learn-step-{run.run_id}")
    else:
        step = extent.first
    if len(tasks) < 2:
        st.caption("Choose two tasks, or three.")
        return None
    if run.info.groups and not any({*tasks} <= {*group} for group in run.info.groups):
        st.caption(f"Gradients meet where tasks share an adapter: {state.plain(groups_text(run.info.groups))}.")
        return None
    blocks = plane.step_blocks(run.path, step, tasks[:2])
    block = right.selectbox(
        f"LoRA matrix, strongest conflict of {tasks[0]} and {tasks[1]} first",
        blocks,
        format_func=_words,
        key=f"learn-block-{run.run_id}",
        help="The first of many is an extreme, and extremes of noise are large: look also at the middle of the list.",
    )
    if block not in blocks:  # of another step
        block = blocks[0]
    names, gram = plane.step_gram(run.path, step, block)
    places = [names.index(task) for task in tasks]
    arrows = plane.coordinates(gram[np.ix_(places, places)])
    origin = (
        f"Run {run.run_id}, step {step}, {_words(block)}: exact in their own span, the longest drawn with length 1."
    )
    if len(tasks) == LARGEST:
        share = plane.share_in_picture(arrows)
        origin += (
            f" Three gradients span a space: the numbers are those of the space, the picture shows {tasks[0]} and"
            f" {tasks[1]} exactly and {share[2]:.0%} of the length of {tasks[2]}. Turn the view to see the rest."
        )
    return origin, tasks, arrows


def _words(block: plane.Block) -> str:
    cosine = "not measured" if block.cosine is None else f"cosine {block.cosine:+.2f}"
    layer = "" if block.layer < 0 else f"layer {layer_name(block.layer)} "
    return f"{layer}{block.module} {block.branch}, {cosine}"


def _show_glossary() -> None:
    st.header("Glossary", anchor="glossary")
    columns = st.columns(2, gap="large")
    half = -(-len(glossary.TERMS) // 2)
    for place, (anchor, term) in enumerate(glossary.TERMS.items()):
        with columns[place >= half]:
            st.subheader(term.name, anchor=anchor)
            st.markdown(term.meaning)
