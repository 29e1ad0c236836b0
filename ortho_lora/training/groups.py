"""Which tasks share an adapter: the setting `groups`, as it is written and what it must say."""

from collections.abc import Sequence
from typing import Any

from ortho_lora.errors import nearest

Groups = tuple[tuple[str, ...], ...]
"""Names of tasks, by adapter."""


def parsed(given: Any) -> Any:
    """Lists of names, also of the short form that `record.schema.groups_text` writes; None as it is.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(given, str):
        given = [[name.strip() for name in group.split("+")] for group in given.split("|")]
        given = [[name for name in group if name] for group in given]
    if given is None or (isinstance(given, list | tuple) and all(map(_is_names, given))):
        return given
    raise ValueError("expected lists of task names, as in [[trec, tweets], [spam]] or 'trec + tweets | spam'")


def arranged(groups: Sequence[Sequence[str]], tasks: Sequence[str]) -> Groups | None:
    """The same groups in the order of the tasks; None where all are in one.

    Raises:
        ValueError: a task is unknown, missing or given twice, or a group is empty.
    """
    named = [name for group in groups for name in group]
    if not all(groups):
        raise ValueError("a group is empty: leave it out")
    for name in named:
        if name not in tasks:
            raise ValueError(f"there is no task {name!r} (tasks are {', '.join(tasks)}){nearest(name, tasks)}")
        if named.count(name) > 1:
            raise ValueError(f"task {name!r} is given {named.count(name)} times: expected each task in one group")
    if missing := [name for name in tasks if name not in named]:
        raise ValueError(f"task {missing[0]!r} is in no group: add it to one, or as a group of its own")
    ordered = (tuple(sorted(group, key=tasks.index)) for group in groups)
    found = tuple(sorted(ordered, key=lambda group: tasks.index(group[0])))
    return found if len(found) > 1 else None


def _is_names(group: Any) -> bool:
    return isinstance(group, list | tuple) and all(isinstance(name, str) for name in group)
