"""Which tasks a run is to have: packaged ones, of the hub, twins, own files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from app.launching import own_data
from app.shared import state
from ortho_lora.tasks.packaged import PACKAGED
from ortho_lora.tasks.specs import expand_task

Mapping = dict[str, Any]


@dataclass
class Draft:
    """The tasks as they are being chosen."""

    chosen: list[str]  # names, or short forms as typed
    known: dict[str, Mapping] = field(default_factory=dict)  # by name, of those that a short form does not say


def as_draft(tasks: Sequence[Mapping | str]) -> Draft:
    """Of the tasks of a configuration, in either form."""
    mappings = [expand_task(task) if isinstance(task, str) else task for task in tasks]
    weighted = [
        {"loss_weight": 1.0, **{key: value for key, value in task.items() if value is not None}} for task in mappings
    ]
    return Draft([task["name"] for task in weighted], {task["name"]: task for task in weighted})


def mappings() -> list[Mapping]:
    """What was chosen, as the configuration takes it."""
    draft = _draft()
    return [draft.known.get(name) or {"loss_weight": 1.0, **expand_task(name)} for name in draft.chosen]


def show() -> list[Mapping]:
    """The choice of tasks; what was chosen, as the configuration takes it."""
    draft = _draft()
    if "launch-tasks" not in st.session_state:
        st.session_state["launch-tasks"] = draft.chosen
    draft.chosen = st.multiselect(
        "Tasks",
        list(dict.fromkeys([*PACKAGED, *draft.known, *draft.chosen])),
        key="launch-tasks",
        accept_new_options=True,
        placeholder="choose, or type hf:glue/sst2",
        help="Real data that comes with packages, a data set of the hub as `hf:glue/sst2`, or what is added below.\n\n"
        + "\n".join(f"- **{name}**: {task.description}" for name, task in PACKAGED.items()),
    )
    with st.expander("Your own data", icon=":material/upload_file:", expanded=not draft.chosen):
        if (task := own_data.show()) is not None:
            _add_button("Add as a task", task)
    with st.expander("A twin that disagrees: the conflict dial", icon=":material/tune:"):
        _twin()
    with st.expander("Loss weights", icon=":material/balance:"):
        _weights(draft)
    return mappings()


def _draft() -> Draft:
    draft: Draft = st.session_state["launch-chosen-tasks"]
    return draft


def _add(task: Mapping) -> None:
    draft = _draft()
    draft.known[task["name"]] = {"loss_weight": 1.0, **task}
    draft.chosen = list(dict.fromkeys([*draft.chosen, task["name"]]))
    st.session_state.pop("launch-tasks", None)


def _add_button(label: str, task: Mapping) -> None:
    st.button(label, key=f"launch-add-{label}", icon=":material/add:", on_click=_add, args=(task,))


def _twin() -> None:
    st.caption(
        "A [twin](learn#dial) draws the same texts in the same step, its labels flipped with the probability chosen: a"
        " conflict of known strength, with a cosine of about 1 - 2 x probability. With a head of its own it can absorb"
        " the flip."
    )
    originals = [task["name"] for task in mappings() if "twin_of" not in task and _may_have_two_classes(task)]
    if not originals:
        st.info("A twin needs a task of two classes among the tasks: add movies or spam.")
        return
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    original = left.selectbox("Twin of", originals, key="launch-twin")
    rho = middle.slider("Labels flipped", 0.0, 1.0, 0.7, 0.05, key="launch-rho", persist_state="session")
    own_head = right.checkbox("A head of its own", key="launch-own-head", persist_state="session")
    _add_button("Add the twin", expand_task(f"{original}@{rho:g}" + ("+head" if own_head else "")))


def _may_have_two_classes(task: Mapping) -> bool:
    packaged = PACKAGED.get(task["name"])
    return packaged is None or len(packaged.classes) == 2


def _weights(draft: Draft) -> None:
    st.caption("Factor on a task's loss, and so on its gradient.")
    if not draft.chosen:
        st.info("No task is chosen yet.")
        return
    columns = st.columns(min(len(draft.chosen), 4))
    for index, (name, task) in enumerate(zip(draft.chosen, mappings(), strict=True)):
        weight = columns[index % 4].number_input(
            state.plain(name), 1e-6, 1e6, float(task["loss_weight"]), format="%g", key=f"launch-weight-{name}"
        )
        if weight != task["loss_weight"]:
            draft.known[name] = {**task, "loss_weight": weight}
