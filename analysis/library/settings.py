"""In which settings runs differ, and in what they ended."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.library.runs import Run, final_metrics
from ortho_lora.record.schema import Identity, groups_text


def setting_differences(infos: Mapping[str, Identity]) -> pd.DataFrame:
    """The settings in which runs differ.

    Nested settings are told by a path, those of a task by its name, whatever its place, and compared only among the
    runs that have it: `tasks.movies.loss_weight`. Rule and scope are those in effect, however they were configured.

    Returns:
        setting, and a column of text for each run; null where a run has no such setting.
    """
    rows = _differing({name: _settings(info) for name, info in infos.items()})
    tasks = {name: {task["name"]: task for task in info.config.get("tasks", ())} for name, info in infos.items()}
    for task in dict.fromkeys(task for found in tasks.values() for task in found):
        rows += _differing(
            {name: _texts(flat(found[task], f"tasks.{task}.")) for name, found in tasks.items() if task in found}
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


def _settings(info: Identity) -> dict[str, str]:
    told = {"method": info.method, "rule": info.rule, "scope": info.scope, "seed": str(info.seed)}
    told["tasks"] = ", ".join(info.task_names)
    return told | _texts(flat({name: value for name, value in info.config.items() if name not in told}))


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings with dotted names, as in `tasks.0.name`; groups as text."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            yield from flat({str(place): one for place, one in enumerate(value)}, f"{before}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, list | tuple) for one in value):
            yield f"{before}{name}", groups_text(value)
        else:
            yield f"{before}{name}", value


def _texts(settings: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """A list with commas, and None as a configuration has it."""
    return {
        name: "null" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in settings
    }
