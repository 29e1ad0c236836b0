"""The form of a configuration. What was entered is kept in a draft, which outlives the page and can be filled."""

from collections.abc import Mapping
from typing import Any

import streamlit as st
import yaml
from pydantic import ValidationError

from app.launching import tasks
from app.launching.presets import FIRST, PRESETS
from app.shared import glossary
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import groups_text
from ortho_lora.training.config import Config, explain

GROUPS = {
    "Main": ("method", "steps", "batch_size", "learning_rate", "rank", "seed"),
    "Method in detail": ("rule", "scope", "branches", "order", "groups"),
    "Adapter, model": ("model", "alpha", "dropout", "target_modules", "pooling", "encoder_dropout"),
    "Optimization": (
        "optimizer", "head_learning_rate", "weight_decay", "schedule", "warmup_steps", "clip", "max_length",
        "on_nonfinite",
    ),
    "Evaluation, recording": (
        "eval_every", "eval_examples", "selection_share", "eval_batch_size", "snapshots", "snapshot_batches",
        "snapshot_held_out", "snapshot_texts", "record_every", "checkpoint_every", "flush_rows", "flush_seconds", "log",
    ),
    "Machine": ("gradient_mode", "precision", "device", "threads"),
}  # fmt: skip
FIELDS = tuple(name for names in GROUPS.values() for name in names)
_LABELS = {
    "eval_every": "Evaluate every",
    "eval_examples": "Evaluation examples",
    "eval_batch_size": "Evaluation batch",
}
_UNSET = {"rule": "the method's", "scope": "the method's", "branches": "the method's", "log": "nowhere"}
TERMS = {
    "method": "method", "rule": "rule", "scope": "scope", "branches": "block", "order": "order", "rank": "rank",
    "target_modules": "block", "batch_size": "noise",
}  # fmt: skip
"""What the glossary says of a setting."""
_SCHEMA = Config.model_json_schema()["properties"]


def fill_form(settings: Mapping[str, Any], source: str) -> None:
    """Put settings into the form, in place of what was entered: in a callback, or before the form is shown.

    Args:
        settings: of a `Config`, as in `run.json`; defaults for the others.
        source: what they are from, to be named beside what is changed of them.
    """
    whole = {**Config.model_validate({}).model_dump(mode="json"), **settings}
    draft = {name: _written(name, whole.get(name)) for name in FIELDS}
    st.session_state["launch-draft"] = draft
    st.session_state["launch-chosen-tasks"] = tasks.as_draft(whole["tasks"])
    st.session_state["launch-source"] = source
    st.session_state["launch-filled-with"] = dict(whole)
    st.session_state["launch-filled-as"] = {**draft, "tasks": tasks.mappings()}
    for key in ("launch-tasks", *map(_key, FIELDS)):
        st.session_state.pop(key, None)  # the next look takes it from the draft


def begin() -> None:
    """Fill the form where nothing has filled it yet."""
    if "launch-draft" not in st.session_state:
        fill_form(PRESETS[FIRST].settings, FIRST)


def source() -> str:
    """What the form was filled from."""
    return str(st.session_state["launch-source"])


def put_back() -> None:
    """Undo what was changed since the form was filled; for a callback."""
    fill_form(st.session_state["launch-filled-with"], source())


def show() -> Config | str:
    """The form; what was entered as a configuration, or in words why it is none."""
    entered: dict[str, Any] = {"tasks": tasks.show()}
    for tab, names in zip(st.tabs(list(GROUPS)), GROUPS.values(), strict=True):
        columns = tab.columns(3)
        for index, name in enumerate(names):
            entered[name] = _field(columns[index % 3], name)
    if not entered["tasks"]:
        return "No task is chosen: choose at least one, or add a file of your own."
    try:
        return Config.model_validate(entered)
    except ValidationError as error:
        return explain(error)
    except OrthoLoraError as error:
        return str(error)


def changes() -> dict[str, tuple[str, str]]:
    """What differs from what the form was filled with: by field, before and now, as written."""
    now = {**st.session_state["launch-draft"], "tasks": tasks.mappings()}
    filled = st.session_state["launch-filled-as"]
    return {name: (_shown(name, filled[name]), _shown(name, now[name])) for name in now if now[name] != filled[name]}


def label(name: str) -> str:
    """A field as people read it."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def _shown(name: str, value: Any) -> str:
    if name == "tasks":
        listed = (f"{task['name']} x {task['loss_weight']:g}" if task.get("loss_weight", 1) != 1 else task["name"]
                  for task in value)  # fmt: skip
        return ", ".join(listed) or "none"
    return _UNSET.get(name, "null") if value in ("", None) else str(value)


def _key(name: str) -> str:
    return f"launch-{name}"


def _help(name: str) -> str:
    explained = [glossary.help(TERMS[name])] if name in TERMS else []
    return "\n\n".join([_SCHEMA[name].get("description", ""), *explained])


def _choice(name: str) -> tuple[dict[str, Any], bool]:
    """What a setting may be, but for null, and whether that is possible."""
    parts = _SCHEMA[name].get("anyOf", [_SCHEMA[name]])
    known = [part for part in parts if part.get("type") != "null"]
    choice = known[0]
    return choice | ({"enum": [choice["const"]]} if "const" in choice else {}), len(known) < len(parts)


def _written(name: str, value: Any) -> Any:
    """A value as its widget holds it: numbers with a point, and lists, as text."""
    choice, _ = _choice(name)
    if "enum" in choice or choice["type"] in ("boolean", "integer"):
        return value
    if isinstance(value, list | tuple):
        return groups_text(value) if name == "groups" else ", ".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _field(where: Any, name: str) -> Any:
    """A widget for a setting, made from its definition; the value as the configuration takes it."""
    choice, optional = _choice(name)
    draft, key = st.session_state["launch-draft"], _key(name)
    if key not in st.session_state:
        st.session_state[key] = draft[name]
    options: dict[str, Any] = {"key": key, "help": _help(name)}
    if "enum" in choice:
        values = [None, *choice["enum"]] if optional else choice["enum"]
        given = where.selectbox(label(name), values, format_func=lambda value: value or _UNSET[name], **options)
    elif choice["type"] == "boolean":
        given = where.checkbox(label(name), **options)
    elif choice["type"] == "integer":
        low, high = choice.get("minimum"), int(choice.get("maximum", choice.get("exclusiveMaximum", 10**9)))
        given = where.number_input(label(name), low, high, step=1, placeholder="null" if optional else None, **options)
    else:
        given = where.text_input(label(name), placeholder="null" if optional else "", **options)
    draft[name] = given
    if not isinstance(given, str) or "enum" in choice or choice["type"] == "string":
        return given
    if name == "groups":
        return given.strip() or None
    if choice["type"] == "array":
        return [part.strip() for part in given.split(",") if part.strip()] or None
    try:
        return yaml.safe_load(given) if given.strip() else None
    except yaml.YAMLError:
        return given  # for the configuration to refuse in words
