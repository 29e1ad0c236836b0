"""In which settings runs differ, and in what they ended."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.library.runs import Run, final_metrics
from ortho_lora.record.schema import Identity


def setting_differences(infos: Mapping[str, Identity]) -> pd.DataFrame:
    """The settings in which runs differ.

    Nested settings are told by a path, those of a task by its name, whatever its place, and compared only among the
    runs that have it: `tasks.movies.loss_weight`. Rule and scope are those in effect, however they were configured.

    Returns:
        setting, and a column of text for each run; null where a run has no such setting.
    """
    rows = _differing({name: dict(_settings(info)) for name, info in infos.items()})
    tasks = {name: {task["name"]: task for task in info.config.get("tasks", ())} for name, info in infos.items()}
    for task in dict.fromkeys(task for found in tasks.values() for task in found):
        rows += _differing(
            {name: dict(_flat(f"tasks.{task}", found[task])) for name, found in tasks.items() if task in found}
        )
    frame = pd.DataFrame(rows, columns=pd.Index(["setting", *infos]), dtype="object")
    return frame.where(frame.notna(), None)


def final_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The last validation values of several runs side by side.

    Returns:
        task, metric (its primary one), and a column for each run; null where a run has no such value.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    values: dict[str, dict[tuple[str, str], float]] = {}
    for run in runs:
        tasks = run.info.tasks if run.info else ()
        final = final_metrics(run.path, tasks)
        values[run.run_id] = {(task.name, task.metrics[0]): final[task.name] for task in tasks if task.name in final}
    keys = dict.fromkeys(key for found in values.values() for key in found)
    rows = [(*key, *(found.get(key) for found in values.values())) for key in keys]
    frame = pd.DataFrame(rows, columns=pd.Index(["task", "metric", *values]))
    return frame.astype(dict.fromkeys(values, "float64"))


def _differing(settings: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    names = dict.fromkeys(name for found in settings.values() for name in found)
    return [
        {"setting": name} | {run: found[name] for run, found in settings.items() if name in found}
        for name in names
        if len({found.get(name) for found in settings.values()}) > 1
    ]


def _settings(info: Identity) -> Iterator[tuple[str, str]]:
    told = {"method": info.method, "rule": info.rule, "scope": info.scope, "seed": str(info.seed)}
    yield from told.items()
    yield "tasks", ", ".join(info.task_names)
    for name, value in info.config.items():
        if name not in (*told, "tasks"):
            yield from _flat(name, value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}", inner)
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    else:
        yield path, "null" if value is None else str(value)
