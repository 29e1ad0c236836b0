"""What is known of the runs chosen on the Runs page, what people say of them, and what may be done to them."""

from collections.abc import Sequence

import streamlit as st

from analysis.library.notes import LONGEST_NOTE, LONGEST_TITLE, make_notes, write_notes
from analysis.library.runs import Run, open_run
from analysis.library.samples import is_sample
from analysis.library.search import delete_run, disk_bytes
from analysis.library.settings import final_table, setting_differences
from app.launching import controls
from app.shared import links, places, state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir


def one(run: Run) -> None:
    """A run: its facts, what is wrong with it, its notes."""
    with st.container(border=True):
        st.subheader(state.plain(run.notes.title or run.run_id), anchor=False)
        st.caption(" · ".join(map(state.plain, _facts(run))))
        with st.container():  # what comes and goes here must not move the fields below while somebody types
            _problems(run)
            if not places.read_only():
                controls.show(run)
        if places.fixed(run):
            _said(run)
        else:
            _notes(run)
        _actions([run])


def several(runs: Sequence[Run]) -> None:
    """Several runs side by side: the settings in which they differ, and their final metrics."""
    known = {run.run_id: run.info for run in runs if run.info}
    with st.container(border=True):
        st.subheader(f"{len(runs)} runs compared", anchor=False)
        left, right = st.columns(2)
        left.markdown("**Settings that differ**")
        differences = places.shown(setting_differences(known))
        if differences.empty:
            left.caption("None: they differ in chance alone, or in what no setting tells.")
        else:
            left.dataframe(
                differences,
                hide_index=True,
                placeholder="–",
                alt="Settings in which the runs differ",
                key="differences",
            )
        right.markdown("**Final metrics**")
        try:
            final = final_table(runs)
        except OrthoLoraError as error:
            right.error(state.plain(str(error)))
        else:
            if final.empty:
                right.caption("Nothing is evaluated yet.")
            else:
                numbers = {name: st.column_config.NumberColumn(name, format="%.3f") for name in final.columns[2:]}
                right.dataframe(
                    final, hide_index=True, column_config=numbers, placeholder="–", alt="Final metrics", key="final"
                )
        _actions(runs)


def _facts(run: Run) -> list[str]:
    found = [run.run_id] if run.notes.title else []
    found.append(f"{state.SYMBOLS[run.state]} {run.state}")
    if run.status:
        found.append(run.status.progress)
    if run.info:
        found.append(run.info.probe.what if run.info.probe else run.info.method)
        found.append(", ".join(run.info.task_names))
    return [*found, f"{disk_bytes(run.path) / 1e6:.1f} MB on disk"]


def _problems(run: Run) -> None:
    problem = run.problem
    if run.info:
        try:
            problem = open_run(run.path.parent, run.run_id).problem  # with the files of it that are left out
        except OrthoLoraError as error:  # deleted since it was listed
            problem = str(error)
    if problem:
        st.warning(state.plain(problem))
    if run.status and run.status.state == "failed":
        st.error(f"It failed: {state.plain(run.status.message)}")
    if run.state == "lost":
        st.warning("Its process is gone. What it recorded is here; `resume` goes on from its last checkpoint.")
    if run.state == "stalled":
        st.warning("Its process lives, but has given no sign for longer than usual.")


def _said(run: Run) -> None:
    """What is said of a run that stays as it is."""
    if is_sample(run.path):
        st.caption("It comes with this program, and stays as it is.")
        return
    st.markdown(state.plain(run.notes.note))
    st.caption(state.plain(", ".join(run.notes.tags)))


def _notes(run: Run) -> None:
    known = sorted({tag for other in places.runs() for tag in other.notes.tags})
    with st.form(f"notes-{run.run_id}", border=False):
        left, right = st.columns(2)
        title = left.text_input(
            "Title",
            run.notes.title,
            max_chars=LONGEST_TITLE,
            key=f"title-{run.run_id}",
            placeholder="a name for people",
            help="Shown beside the name of the directory, which stays: its probes, links and process go by that.",
        )
        tags = right.multiselect(
            "Tags",
            known,
            default=run.notes.tags,
            key=f"tags-{run.run_id}",
            accept_new_options=True,
            placeholder="choose, or type a new one",
        )
        note = st.text_area(
            "Note", run.notes.note, max_chars=LONGEST_NOTE, key=f"note-{run.run_id}", placeholder="what it was about"
        )
        saved = st.form_submit_button("Save", icon=":material/save:")
    if saved:
        try:
            write_notes(run.path, make_notes(title=title, tags=tags, note=note, archived=run.notes.archived))
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))
        else:
            st.toast(f"Saved what you say of **{state.plain(run.run_id)}**.")
            st.rerun()


def _actions(runs: Sequence[Run]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        links.link("metrics", "Open in Metrics")
        if any(map(places.fixed, runs)):
            return
        archived = all(run.notes.archived for run in runs)
        words, icon = ("Take back", ":material/unarchive:") if archived else ("Archive", ":material/archive:")
        if st.button(words, icon=icon, key="archive", help="Archived runs are kept, and listed apart."):
            _archive(runs, not archived)
        busy = [run.run_id for run in runs if run.active]
        if st.button(
            "Delete",
            icon=":material/delete:",
            key="delete",
            disabled=bool(busy),
            help=f"{', '.join(map(state.plain, busy))}: stop it first." if busy else None,
        ):
            _ask_to_delete(runs)


def _archive(runs: Sequence[Run], archived: bool) -> None:
    try:
        for run in runs:
            write_notes(run.path, run.notes.model_copy(update={"archived": archived}))
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    else:
        st.rerun()


@st.dialog("Delete for good?", icon=":material/delete_forever:")
def _ask_to_delete(runs: Sequence[Run]) -> None:
    size = sum(disk_bytes(run.path) for run in runs) / 1e6
    st.markdown("\n".join(f"- **{state.plain(run.run_id)}** {state.plain(run.notes.title)}" for run in runs))
    st.markdown(f"Records, adapter and checkpoint, {size:.1f} MB: nothing brings them back.")
    phrase = runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs"
    typed = st.text_input(f"Type {state.plain(phrase)} to delete", key="delete-typed", live=True)
    if st.button("Delete", type="primary", key="delete-now", disabled=typed != phrase):
        try:
            for run in runs:
                delete_run(default_runs_dir(), run.run_id)
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))
        else:
            st.rerun()
