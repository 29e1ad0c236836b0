"""Data of the tasks of a configuration: packaged ones, the user's own files, data sets of the hub, and twins."""

from collections.abc import Iterable
from functools import cache

from ortho_lora.tasks.data import TaskData, with_selection
from ortho_lora.tasks.specs import DialTask, FileTask, HubTask, Task


def load_tasks(configs: Iterable[Task], seed: int, selection_share: float = 0.0) -> list[TaskData]:
    """The tasks of a validated configuration, in its order; `seed` decides which labels a dial flips.

    `selection_share` of the validation data becomes an evaluation split of its own, for a twin as for its original.

    Raises OrthoLoraError for data that cannot be had or does not fit.
    """
    configs = list(configs)
    loaded = {
        task.name: with_selection(_load(task), selection_share) for task in configs if not isinstance(task, DialTask)
    }
    for task in configs:
        if isinstance(task, DialTask):
            from ortho_lora.tasks.dial import make_twin

            original = loaded[task.twin_of]
            loaded[task.name] = make_twin(original, task.rho, name=task.name, own_head=task.own_head, seed=seed)
    return [loaded[task.name] for task in configs]


def _load(task: Task) -> TaskData:
    # Imported where needed: a configuration can be checked without pandas, and packaged tasks need no `datasets`.
    if isinstance(task, FileTask):
        from ortho_lora.tasks.files import load_file

        return load_file(**task.model_dump(exclude={"loss_weight"}))
    if isinstance(task, HubTask):
        from ortho_lora.tasks.hub import load_hub

        return load_hub(**task.model_dump(exclude={"loss_weight"}))
    return _packaged(task.name)


@cache
def _packaged(name: str) -> TaskData:
    """Read once a process, which may train, probe and look ahead: it never changes."""
    from ortho_lora.tasks.packaged import load_packaged

    return load_packaged(name)
