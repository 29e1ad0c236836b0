"""Start a run, and watch it train."""

from datetime import UTC, datetime
from typing import Any

import streamlit as st
import yaml
from pydantic import ValidationError

from analysis import figures, queries
from analysis.runs import Run, list_runs
from app import launcher, state
from ortho_lora.config import Config, explain
from ortho_lora.errors import OrthoLoraError
from ortho_lora.methods import METHODS
from ortho_lora.schema import default_runs_dir
from ortho_lora.tasks.packaged import PACKAGED

FIRST = ("steps", "rank", "learning_rate", "seed")
GROUPS = {
    "Adapter": ("alpha", "dropout", "target_modules", "model", "pooling"),
    "Optimization": (
        "batch_size", "max_length", "optimizer", "head_learning_rate", "weight_decay", "schedule", "warmup_steps",
        "clip",
    ),
    "Evaluation and recording": ("eval_every", "eval_examples", "record_every"),
    "Method in detail": ("rule", "scope", "branches", "order"),
    "Machine": ("gradient_mode", "precision", "device", "encoder_dropout"),
}  # fmt: skip
DEFAULTS = {"steps": 60, "learning_rate": 2e-3, "dropout": 0.0, "eval_examples": 256}  # those of the demo run


def page() -> None:
    st.title("Launch")
    if started := st.session_state.pop("launch-started", None):
        # The form is long: whoever sent it does not see the progress above it.
        st.toast(f"**{state.plain(started)}** is starting, at the top of this page.", icon=":material/rocket_launch:")
    _running()
    _form()


def _form() -> None:
    st.subheader("A new run")
    with st.form("launch", border=True):
        left, right = st.columns([2, 1])
        tasks = left.multiselect(
            "Tasks",
            list(PACKAGED),
            default=["trec", "tweets", "movies"],
            key="launch-tasks",
            persist_state="session",
            help="Real data that comes with packages; the README names the origin of each.\n\n"
            + "\n".join(f"- **{name}**: {task.description}" for name, task in PACKAGED.items()),
        )
        method = right.selectbox(
            "Method",
            list(METHODS),
            index=list(METHODS).index("ortho-lora"),
            key="launch-method",
            persist_state="session",
            help="joint: the gradients' sum. ortho-lora: conflicts projected away on each LoRA matrix. pcgrad: on the"
            " whole model at once. single: one adapter for each task.",
        )
        values: dict[str, Any] = {"method": method}
        for column, name in zip(st.columns(len(FIRST)), FIRST, strict=True):
            values[name] = _field(column, name)
        name = st.text_input(
            "Name", key="launch-name", placeholder="the time and the method", help="Letters, digits, '.', '_' and '-'."
        )
        with st.expander("Conflict dial: a twin that disagrees", icon=":material/tune:"):
            twin = _dial()
        with st.expander("Your own data", icon=":material/upload_file:"):
            own = _own_data()
        for group, names in GROUPS.items():
            with st.expander(group):
                columns = st.columns(3)
                for index, field in enumerate(names):
                    values[field] = _field(columns[index % 3], field)
        refused = st.empty()  # beside the button, where whoever pressed it looks
        submitted = st.form_submit_button("Start training", type="primary", icon=":material/play_arrow:")
    if not submitted:
        return
    if not (chosen := [*tasks, *own]):
        refused.error("No task is chosen: choose at least one, or give a file of your own.")
        return
    run_id = name.strip() or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{method}"
    try:
        config = Config.model_validate({**values, "tasks": [*chosen, *twin]})
        launcher.start(config, default_runs_dir(), run_id)
    except ValidationError as error:
        refused.error(state.plain(explain(error)))
    except OrthoLoraError as error:
        refused.error(state.plain(str(error)))
    else:
        st.session_state["launch-started"] = run_id
        st.rerun()


def _dial() -> list[dict[str, Any]]:
    st.caption(
        "A twin draws the same texts in the same step, its labels flipped with the probability chosen: a conflict of"
        " known strength, with a cosine of about 1 - 2 x probability. With a head of its own it can absorb the flip."
    )
    two_classes = [name for name, task in PACKAGED.items() if len(task.classes) == 2]
    left, middle, right = st.columns(3)
    original = left.selectbox("Twin of", ["none", *two_classes], key="launch-twin", persist_state="session")
    rho = middle.slider("Labels flipped", 0.0, 1.0, 0.7, 0.05, key="launch-rho", persist_state="session")
    own_head = right.checkbox("A head of its own", key="launch-own-head", persist_state="session")
    if original == "none":
        return []
    name = f"{original}-flip{rho:g}" + ("-own" if own_head else "")
    return [{"name": name, "twin_of": original, "rho": rho, "own_head": own_head}]


def _own_data() -> list[dict[str, Any]]:
    st.caption("A CSV, TSV, JSONL or Parquet file on this machine; a part is held out for validation.")
    path = st.text_input("File", key="launch-path", persist_state="session", placeholder="/path/to/reviews.csv")
    columns = st.columns(4)
    name = columns[0].text_input("Task name", "mine", key="launch-own-name", persist_state="session")
    text = columns[1].text_input("Text column", "text", key="launch-text", persist_state="session")
    label = columns[2].text_input("Label column", "label", key="launch-label", persist_state="session")
    pair = columns[3].text_input("Second text column", key="launch-pair", persist_state="session", placeholder="none")
    if not path.strip():
        return []
    return [{"name": name, "path": path.strip(), "text": text, "label": label, "text_pair": pair.strip() or None}]


def _field(where: Any, name: str) -> Any:
    """A widget for a setting, made from its definition; the value as the configuration takes it."""
    definition = Config.model_json_schema()["properties"][name]
    label = name.replace("_", " ").capitalize()
    options: dict[str, Any] = {
        "key": f"launch-{name}",
        "persist_state": "session",
        "help": definition.get("description"),
    }
    default = DEFAULTS.get(name, definition.get("default"))
    choices = [part for part in definition.get("anyOf", [definition]) if part.get("type") != "null"]
    optional = len(choices) < len(definition.get("anyOf", [definition]))
    choice = choices[0]
    if "enum" in choice:
        values = [None, *choice["enum"]] if optional else choice["enum"]
        shown = {None: "the method's"}
        return where.selectbox(label, values, values.index(default), format_func=lambda v: shown.get(v, v), **options)
    if choice["type"] == "boolean":
        return where.checkbox(label, default, **options)
    if choice["type"] == "integer" and not optional:
        low, high = choice.get("minimum"), choice.get("maximum", 10**9)
        return where.number_input(label, low, int(high), default, **options)
    written = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
    given = where.text_input(label, written, placeholder="null" if optional else "", **options).strip()
    if choice["type"] == "array":
        return [part.strip() for part in given.split(",") if part.strip()] or None
    if choice["type"] == "string":
        return given
    try:
        return yaml.safe_load(given) if given else None
    except yaml.YAMLError:
        return given  # for the configuration to refuse in words


def _running() -> None:
    runs_dir = default_runs_dir()

    def active() -> list[Run]:
        return [run for run in list_runs(runs_dir) if run.active]

    before = ([run.run_id for run in active()], [one.run_id for one in launcher.waiting(runs_dir) if one.alive])
    latest = [run for run in list_runs(runs_dir) if run.run_id == st.session_state.get("launch-watched")]

    @st.fragment(run_every=1.0 if any(before) else None)
    def show() -> None:
        runs, waiting = active(), launcher.waiting(runs_dir)
        if before != ([run.run_id for run in runs], [one.run_id for one in waiting if one.alive]):
            if runs:
                st.session_state["launch-watched"] = runs[0].run_id
            st.rerun()
        for one in waiting:
            _starting(one)
        for run in runs:
            _progress(run)

    show()
    if not before[0] and latest:
        _ended(latest[0])


def _starting(one: launcher.Launch) -> None:
    with st.container(border=True):
        name = state.plain(one.run_id)
        if one.alive:
            st.markdown(f"**{name}** is starting: loading data and model")
        else:
            st.error(f"**{name}** did not start. This is what it said:")
        if one.output:
            st.code(one.output, language=None)
        if st.button("Cancel" if one.alive else "Dismiss", key=f"dismiss-{one.run_id}"):
            launcher.stop_waiting(default_runs_dir(), one.run_id)
            st.rerun()


def _ended(run: Run) -> None:
    words = f"**{state.plain(run.run_id)}** {state.plain(run.state)}."
    if run.state == "finished":
        st.success(f"{words} It is the run to choose in the sidebar.", icon=":material/check:")
    elif run.status and run.status.message:
        st.error(f"{words} {state.plain(run.status.message)}")
    else:
        st.warning(words)


def _progress(run: Run) -> None:
    status = run.status
    assert status is not None
    assert run.info is not None
    st.session_state["launch-watched"] = run.run_id
    with st.container(border=True):
        head, button = st.columns([6, 1], vertical_alignment="center")
        asked = st.session_state.get(f"asked-{run.run_id}", False) or status.state == "stopping"
        eta = f", about {status.eta_seconds:.0f} s left" if status.eta_seconds is not None and not asked else ""
        doing = "stopping" if asked else status.phase
        head.markdown(
            f"**{state.plain(run.run_id)}** · {state.plain(run.info.method)} · {doing}, {status.progress}{eta}"
        )
        if button.button("Stop", key=f"stop-{run.run_id}", icon=":material/stop:", disabled=asked):
            st.session_state[f"asked-{run.run_id}"] = launcher.stop(status.pid, status.process_start_time)
            st.rerun(scope="fragment")
        if status.total:
            st.progress(min(status.step / status.total, 1.0))
        if status.losses:
            for column, (task, loss) in zip(st.columns(len(status.losses)), status.losses.items(), strict=True):
                column.metric(f"{state.plain(task)} loss", f"{loss:.3f}")
        values = state.ask_of_runs(queries.metrics, [run])
        if not values.empty:
            figure = figures.metric_lines(values, {run.run_id: run.info}, "validation", dark=state.is_dark())
            st.plotly_chart(figure, theme=None, width="stretch", key=f"live-{run.run_id}")
        with st.expander("Log"):
            st.code(launcher.tail(run.path / "log.txt", 15) or "nothing yet", language=None)
