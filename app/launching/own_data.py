"""A task from a file of the user's own: uploaded, or on this machine."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from app.launching import uploads
from app.shared import state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import default_runs_dir, left_out_words
from ortho_lora.tasks.files import load_file
from ortho_lora.tasks.specs import FileTask
from ortho_lora.training.config import explain

_HERE = "a path on this machine"
_HELD_OUT = "a fifth of the texts, held out"
_NONE = "none"


def show() -> dict[str, Any] | None:
    """Upload or choose a file, see what is in it, and choose its columns; the task, where it can be one."""
    _upload()
    if (path := _file("File", "launch-file")) is None:
        st.caption("A CSV, TSV, JSONL or Parquet file, with a row for each example.")
        return None
    try:
        rows, count = _head(str(path), _version(path))
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
        return None
    st.dataframe(rows, height=220, hide_index=True, key="launch-preview", alt="The first rows of the file")
    counted = f"The first {len(rows)}" if count is None else f"{count:,}"
    st.caption(f"{counted} rows, {len(rows.columns)} columns.")
    return _task(path, rows)


def _upload() -> None:
    counter = st.session_state.setdefault("launch-uploads", 0)
    given = st.file_uploader(
        "Upload a table",
        list(uploads.ENDINGS),
        key=f"launch-upload-{counter}",
        max_upload_size=uploads.MOST_MEGABYTES,
        help="It is kept beside the runs, on this machine, and stays after a reload.",
    )
    if given is not None:
        try:
            path = uploads.keep(default_runs_dir(), given.name, given.getvalue())
        except OrthoLoraError as error:
            st.error(state.plain(str(error)))
            return
        st.session_state["launch-uploads"] = counter + 1  # an empty uploader: the file is in the list now
        st.session_state["launch-file"] = path.name
        st.rerun()


def _file(label: str, key: str, first: tuple[str, ...] = ()) -> Path | None:
    """A file that was uploaded, or by its path; None where neither is given, or what stands first was chosen."""
    known = uploads.uploaded(default_runs_dir())
    options = [*first, *known, _HERE]
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    chosen = st.selectbox(label, options, key=key, persist_state="session")
    if chosen in known:
        return (uploads.folder(default_runs_dir()) / chosen).resolve()
    if chosen in first:
        return None
    path = st.text_input("Path", key=f"{key}-path", persist_state="session", placeholder="/path/to/reviews.csv").strip()
    return Path(path).expanduser() if path else None


def _task(path: Path, rows: pd.DataFrame) -> dict[str, Any] | None:
    names = [str(name) for name in rows.columns]
    text, label = _guess(rows)
    columns = st.columns(4)

    def column(place: int, title: str, options: list[str], guess: str) -> str:
        key = f"launch-{title}-{path.name}-{'-'.join(names)}"  # another file is another choice
        return str(columns[place].selectbox(title, options, options.index(guess), key=key))

    chosen_text = column(0, "Text", names, text)
    chosen_label = column(1, "Label", names, label)
    second = column(2, "Second text", [_NONE, *names], _NONE)
    kind = column(3, "Kind", ["auto", "classification", "regression"], "auto")
    drop_labels, skip_empty = _left_out(path, chosen_label)
    left, right = st.columns(2)
    name = left.text_input("Name of the task", path.stem.replace(" ", "-")[:60], key=f"launch-own-name-{path.name}")
    with right:
        validation = _file("Validation", "launch-validation", (_HELD_OUT,))
        if validation is None and st.session_state["launch-validation"] == _HERE:
            return None
    given = {
        "name": name,
        "path": str(path),
        "text": chosen_text,
        "label": chosen_label,
        "text_pair": None if second == _NONE else second,
        "kind": kind,
        "validation_path": validation and str(validation),
        "skip_empty": skip_empty,
        "drop_labels": drop_labels,
    }
    try:
        task = FileTask.model_validate(given)
        if _asked_for_all(path, validation):
            _describe(given, _version(path), _version(validation) if validation else 0)
    except ValidationError as error:
        st.error(state.plain(explain(error)))
    except OrthoLoraError as error:
        st.error(state.plain(str(error)))
    else:
        return task.model_dump(mode="json", exclude_none=True)
    return None


def _left_out(path: Path, label: str) -> tuple[list[str], bool]:
    """Labels whose rows are left out, and whether rows without a text or label are."""
    left, right = st.columns(2, vertical_alignment="bottom")
    labels: list[str] = left.multiselect(
        "Leave out rows labelled",
        [],
        key=f"launch-drop-{path.name}-{label}",
        accept_new_options=True,
        placeholder="type a label, as in -",
        help="As where `-` says that a row has no label; of the validation file as well.",
    )
    skip = right.checkbox("Leave out rows without a text or label", key=f"launch-skip-{path.name}")
    return labels, skip


def _asked_for_all(*paths: Path | None) -> bool:
    """Whether all of the files is to be read: of large ones only when somebody says so."""
    size = sum(_size(path) for path in paths if path) / 2**20
    if size <= uploads.MOST_MEGABYTES:
        return True
    return st.toggle(
        f"Check all {size:,.0f} MB of it",
        key=f"launch-check-{'-'.join(str(path) for path in paths)}",
        help="Counts examples and labels. The run checks them too, before it loads a model.",
    )


def _describe(task: dict[str, Any], version: int, validation_version: int) -> None:
    """How many examples there are, and of which classes."""
    counts, train, held, left_out = _counts(task, version, validation_version)
    st.caption(
        f"{train:,} examples to train on, {held:,} for validation."
        + (f" Left out: {state.plain(left_out)}." if left_out else "")
    )
    if counts is not None:
        st.dataframe(
            counts,
            hide_index=True,
            column_config={
                "label": "Label",
                "examples": st.column_config.ProgressColumn(
                    "Examples to train on", format="localized", min_value=0, max_value=int(counts["examples"].max())
                ),
            },
            height=min(36 * (len(counts) + 1), 250),
            key="launch-counts",
            alt="How many examples each label has",
        )
        rarest = counts.iloc[-1]
        if rarest["examples"] < 20:
            st.warning(
                f"Label {state.plain(str(rarest['label']))} has {rarest['examples']} examples only: its metrics"
                " will be chance."
            )


@st.cache_data(show_spinner="Reading the file", max_entries=4)
def _head(path: str, version: int) -> tuple[pd.DataFrame, int | None]:
    return uploads.head(Path(path))


@st.cache_data(show_spinner="Checking the file", max_entries=20)
def _counts(task: dict[str, Any], version: int, validation_version: int) -> tuple[pd.DataFrame | None, int, int, str]:
    data = load_file(**task)
    held = sum(map(len, data.evaluation.values()))
    left_out = left_out_words(data.dropped)
    if data.kind == "regression":
        return None, len(data.train), held, left_out
    labels = pd.Series(data.train.labels).map(dict(enumerate(data.classes)))
    counts = labels.value_counts().rename_axis("label").reset_index(name="examples")
    return counts, len(data.train), held, left_out


def _version(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # for the reader to say


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _guess(rows: pd.DataFrame) -> tuple[str, str]:
    """The columns most likely to hold the text, the longest on average, and the label, the one of fewest values."""
    some = rows.head(500).astype(str)
    lengths = {name: some[name].str.len().mean() for name in some}
    text = next((name for name in lengths if str(name).lower() in ("text", "sentence", "review")), None)
    text = text if text is not None else max(lengths, key=lambda name: lengths[name])
    others = [name for name in lengths if name != text] or [text]
    label = next((name for name in others if str(name).lower() in ("label", "class", "sentiment")), None)
    label = label if label is not None else min(others, key=lambda name: some[name].nunique())
    return str(text), str(label)
