"""What a report says of runs, as plain values: sentences, tables, and figures with their words and numbers."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.conflict import queries
from analysis.conflict.replay import Replay
from analysis.diagnosis.diagnose import Diagnosis, diagnose
from analysis.diagnosis.verdicts import worst_first
from analysis.library.runs import Run, info_of, runs_table
from analysis.library.settings import final_table, flat
from analysis.outcomes.beside import outcomes
from analysis.output.data import replay_table
from analysis.report.figures import (
    Part,
    agreement_parts,
    export_command,
    metric_figures,
    projection_part,
    transfer_part,
)
from analysis.report.tables import Table, table_of
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import layer_name
from ortho_lora.record.schema import RunInfo, read_run


def comparison_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Read what a report says of several runs, as of `open_run`, all of them readable."""
    majority = {
        (task.name, metric): value
        for run in runs
        for task in info_of(run).tasks
        for metric, value in task.majority.get("validation", {}).items()
    }
    values = final_table(runs)
    always = [majority.get(key) for key in zip(values["task"], values["metric"], strict=True)]
    values.insert(2, "always the majority", pd.array(always, dtype="Float64"))
    overview = runs_table(runs)[["run", "state", "method", "seed", "done", "total", "mean", "created"]]
    overview = overview.assign(created=overview["created"].dt.strftime("%Y-%m-%d %H:%M UTC")).rename(
        columns={"done": "steps done", "total": "of", "mean": "mean metric", "created": "begun"}
    )
    return {"runs": table_of(overview), "final": table_of(values), "figures": metric_figures(runs, "all")}


def content_of(run: Run, key: str) -> dict[str, Any]:
    """Read what a report says of one run, as of `open_run`; the names of its parts in the page begin with `key`.

    `notice` is on a run that has not finished; `no_replay` says why there are no `replays`.
    """
    info = read_run(run.path)
    diagnosis: Diagnosis | None = None
    try:
        found = queries.extent(run.path)
        if found.pairs:
            diagnosis = diagnose(run.path)
        summary = diagnosis.summary if diagnosis else _no_pairs(info)
    except OrthoLoraError as error:
        found, summary = queries.Extent(None, None), f"No diagnosis: {error}"
    replays: list[Replay] = []
    no_replay = "" if found.of_steps else "There is no step to replay."
    if not found.pairs:
        no_replay = "There is no pair of tasks to replay."
    try:
        replays = replay_table(run.path) if found.of_steps else []
    except OrthoLoraError as error:
        no_replay = f"No replay: {error}"
    parts = [Part(f"{key}-metrics", "Metrics and losses", "", tuple(metric_figures([run], key)))]
    if diagnosis:
        of_steps = [projection_part(run, key, found)] if found.of_steps else []
        try:
            of_transfer = [part] if (part := transfer_part(run, key)) else []
        except OrthoLoraError as error:
            of_transfer = [Part(f"{key}-transfer", "Transfer", str(error), ())]
        parts = [*of_transfer, *agreement_parts(run, key, found, diagnosis), *of_steps, *parts]
    return {
        "id": key,
        "info": info,
        "name": run.run_id,
        "facts": _facts(run, info, found),
        "notice": _notice(run),
        "warnings": [line.replace(f"{run.path.parent}/", "") for line in (run.problem or "").splitlines()],
        "summary": summary,
        "diagnosis": diagnosis,
        "pairs": sorted(diagnosis.pairs, key=worst_first) if diagnosis else [],
        "outcomes": diagnosis.outcomes if diagnosis else outcomes(run.path),
        "parts": parts,
        "replays": replays,
        "no_replay": no_replay,
        "replay_command": export_command(run, "replay"),
        "tasks": _tasks(info),
        "settings": table_of(pd.DataFrame(flat(info.config), columns=["setting", "value"], dtype=object)),
        "modules": _modules(info),
        "versions": table_of(pd.DataFrame(info.versions.items(), columns=["package", "version"])),
        "command": shlex.join(info.command),
    }


def _no_pairs(info: RunInfo) -> str:
    if info.method == "single":
        return "One adapter for each task: no gradients meet, so there is no pair to judge."
    if len(info.tasks) < 2:
        return "One task: a conflict needs two."
    return "No gradients of two tasks at once are recorded yet, so there is no pair to judge."


def _notice(run: Run) -> str:
    done = run.status.progress if run.status else "an unknown step"
    message = f" It said: {run.status.message}" if run.status and run.status.message else ""
    said = {
        "finished": "",
        "queued": "It had not begun when this report was made.",
        "running": f"It was still training, at {done}, when this report was made: its numbers will change.",
        "stopping": f"It was being stopped, at {done}, when this report was made.",
        "stalled": f"It had given no sign for a while, at {done}, when this report was made.",
        "stopped": f"It was stopped at {done}: what it recorded until then is complete.",
        "lost": f"Its process was gone, at {done}: what was written until then is here.",
        "failed": f"It failed at {done}: what it recorded until then is here.{message}",
    }
    return said.get(run.state, "Its state is not known.")


def _facts(run: Run, info: RunInfo, extent: queries.Extent) -> tuple[tuple[str, str], ...]:
    recorded = "none" if extent.first is None else f"{extent.first} to {extent.last}"
    return (
        ("state", f"{run.state}, {run.status.progress}" if run.status else run.state),
        ("method", info.method),
        ("rule, scope", f"{info.rule}, {info.scope}"),
        ("tasks", str(len(info.tasks))),
        ("seed", str(info.seed)),
        ("adapted modules", str(len(info.modules))),
        ("steps recorded", recorded),
        ("begun", f"{datetime.fromtimestamp(info.created, UTC):%Y-%m-%d %H:%M} UTC"),
    )


def _tasks(info: RunInfo) -> Table:
    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "classes": len(task.classes) or None,
            "metric": task.metrics[0] if task.metrics else None,
            "training examples": task.train_examples,
            "evaluated on": ", ".join(f"{count} {split}" for split, count in task.evaluation_examples.items()) or None,
            "left out": task.left_out or None,
            "loss weight": task.loss_weight,
            "twin of": task.twin_of,
        }
        for task in info.tasks
    ]
    return table_of(pd.DataFrame(rows).astype({"classes": "Int64", "training examples": "Int64"}))


def _modules(info: RunInfo) -> Table:
    rows = [
        {
            "layer": layer_name(module.layer),
            "module": module.module,
            **{branch: " x ".join(map(str, shape)) for branch, shape in module.shapes.items()},
            "path": module.path,
        }
        for module in info.modules
    ]
    return table_of(pd.DataFrame(rows))
