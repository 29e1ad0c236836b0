"""Carries a study out: tuning, choosing, reporting. Whatever ends it, the same command goes on where it was."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.life import stop_on_signal
from ortho_lora.record.files import replace_text
from ortho_lora.record.study import FILE_NAME, Choice, Settings, Study, read_study, write_study
from ortho_lora.study import plan as planning
from ortho_lora.study.choose import choose, read_outcome
from ortho_lora.study.file import StudyFile
from ortho_lora.study.folder import Folder
from ortho_lora.study.plan import Plan
from ortho_lora.study.progress import Progress
from ortho_lora.study.schedule import Ending, Means, Schedule
from ortho_lora.training.config import Config


@dataclass(frozen=True)
class Order:
    """What a study is carried out from."""

    file: StudyFile
    given: Settings  # the file as read
    text: str  # the file itself
    command: Sequence[str]


def run(order: Order, folder: Folder, means: Means, progress: Progress) -> dict[str, Ending]:
    """Train all runs of a study that have not finished, choose settings in between, and keep `study.json`.

    Returns:
        How each run ended.

    Raises:
        OrthoLoraError: another command carries it out, or a run there has other settings.
    """
    file = order.file
    lock = folder.lock()
    try:
        with stop_on_signal() as stop:
            created = _created(folder)
            whole = planning.expected(file)
            plan = planning.tuning(file)
            _check(folder, whole.configs)
            replace_text(folder.file, order.text)
            _write(order, folder, created, plan, [], "tuning" if file.has_choice else "reporting")
            progress.expect(whole.configs)
            endings = Schedule(folder, plan.configs, means, progress).carry_out(stop)
            if stop.is_set() or not all(ending.final for ending in endings.values()):
                return endings  # nothing is chosen before all candidates were tried
            outcomes = {name: read_outcome(folder.path / name) for name in plan.configs}
            choices = choose(file, plan.uses, outcomes)
            plan = plan + planning.reporting(file, choices)
            _check(folder, plan.configs)
            _write(order, folder, created, plan, choices, "reporting")
            progress.expect(plan.configs)
            left = {name: config for name, config in plan.configs.items() if name not in endings}
            endings |= Schedule(folder, left, means, progress).carry_out(stop)
            if all(ending.final for ending in endings.values()):
                _write(order, folder, created, plan, choices, "done")
            return endings
    except OSError as error:
        raise OrthoLoraError(
            f"{error.filename or folder.path}: the study cannot be written ({error.strerror or error}): free space, or"
            " make the directory writable. The same command goes on."
        ) from error
    finally:
        lock.release()


def _check(folder: Folder, configs: Mapping[str, Config]) -> None:
    for name, config in configs.items():
        folder.check(name, config)


def _created(folder: Folder) -> float:
    """When the study was first begun."""
    return read_study(folder.path).created if (folder.path / FILE_NAME).is_file() else time.time()


def _write(
    order: Order,
    folder: Folder,
    created: float,
    plan: Plan,
    choices: Sequence[Choice],
    phase: Literal["tuning", "reporting", "done"],
) -> None:
    file = order.file
    write_study(
        folder.path,
        Study(
            name=folder.path.name,
            title=file.title,
            created=created,
            command=list(order.command),
            file=order.given,
            methods=tuple(file.methods),
            baseline="joint" if "joint" in file.methods else next(iter(file.methods)),
            axes={axis: tuple(labels) for axis, labels in file.axes.items()},
            seeds=file.seeds,
            tuning_seeds=file.tuning_seeds,
            candidates={method: len(file.candidates(method)) for method in file.methods},
            uses=plan.uses,
            advice=file.advice,
            choices=tuple(choices),
            phase=phase,
        ),
    )
