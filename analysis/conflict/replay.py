"""What another rule or scope would have done in each recorded step of a run, from its Gram matrices, in numpy.

A block's Gram matrix is K[i, j] = cos_ij n_i n_j; a null cosine is that of a zero gradient. A rule replaces task i's
gradient by sum_j C_ij g_j with C computed from K alone, so everything here is exact for what was recorded, to its 32
bits. It is one step ahead only: from the second step on, another rule would have met other gradients.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.conflict.rules import RULES, SCOPES, Flags, Places, after, project
from analysis.reading.database import Selection, ask, ask_once
from analysis.statistics.series import Floats
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import BRANCHES, RunInfo, groups_text, read_run

ORDERS = ("recorded", "mean")
NOTE = (
    "One step ahead only: exact for the recorded gradients, which another rule would not have met after its first step."
)
INTERESTING = (
    ("sum", "block", "both"),
    ("pcgrad", "block", "both"),
    ("pcgrad", "block", "A"),
    ("pcgrad", "block", "B"),
    ("pcgrad", "module", "both"),
    ("pcgrad", "model", "both"),
    ("pcgrad-inplace", "block", "both"),
    ("gradvac", "block", "both"),
    ("gradvac", "model", "both"),
)
"""Rule, scope and branches of the table over methods."""

_LARGEST_MEAN = 5  # tasks up to which all orders are gone through: 120
_RESIDUE = 1e-6  # share of the tasks' squared norms below which the squared norm of their sum is rounding error
_ROWS = 500_000  # of `pairs` and `norms` in memory at once


@dataclass(frozen=True)
class Steps:
    """Consecutive recorded steps: S steps, N blocks, T tasks."""

    steps: Places  # [S]
    blocks: tuple[tuple[int, str, str], ...]  # N of layer, module, branch, sorted
    gram: Floats  # [S, N, T, T]
    weights: Floats  # [S, N, T], of the update that was taken; 0 where a task was not there
    orders: Places | None  # [S, T], tasks in the order they were taken; None: the mean over all orders


@dataclass(frozen=True)
class Replayed:
    """What a rule makes of `Steps`."""

    coefficients: Floats  # [S, N, T, T]
    projected: Flags  # [S, N, T, T], whether i was changed against j
    state: Floats | None  # [groups, T, T], gradvac's target cosines after the last step


@dataclass(frozen=True)
class TaskEffect:
    """What the update does to one task, to first order."""

    task: str
    weight: float | None  # mean effective weight of its gradient in the update; the plain sum has 1
    removed: float | None  # mean of 1 - norm after / norm before over blocks and steps with a gradient
    cosine: float | None  # mean over steps, of the whole update and the task's whole gradient
    conflict: float | None  # share of the steps in which that is negative: the update raises its loss


@dataclass(frozen=True)
class Replay:
    """One rule and scope, over all recorded steps of a run. None: nothing was measured."""

    rule: str
    scope: str
    branches: str
    order: str
    steps: int
    projected: float | None  # share of the measured directed pairs, over blocks, in which i was changed against j
    removed: float | None  # mean of 1 - norm after / norm before over tasks, blocks and steps with a gradient
    agreement: float | None  # mean cosine of this update and the one taken, over steps
    direction: float | None  # mean cosine of a block's update and its plain sum, over blocks and steps
    tasks: tuple[TaskEffect, ...]
    left_out: int = 0  # steps of which rows are missing


def replay(
    run: Path, rule: str, scope: str = "block", branches: str = "both", order: str = "recorded", rows: int = _ROWS
) -> Replay:
    """Evaluate a method on the Gram matrices of a run.

    Args:
        run: its directory.
        rule, scope, branches: as a run's own; with `branches` A or B the other one takes the plain sum.
        order: `recorded`: the tasks in the order in which each step took them; `mean`: the mean over all orders.
        rows: of the record to hold in memory at once.

    Raises:
        OrthoLoraError: no such rule, nothing recorded to replay, or it cannot be read.
    """
    info = read_run(run)
    _check(info, rule, scope, branches, order)
    sums: dict[str, Floats] = {}
    state: Floats | None = None
    for part in steps_of(run, info, rows, orders=order == "recorded"):
        found = apply(part, rule, scope, branches, order, state)
        state = found.state
        for name, value in _measure(part, found).items():
            sums[name] = sums[name] + value if name in sums else value
    if not sums:
        raise OrthoLoraError(f"{run}: no gradients of two tasks at once are recorded, so there is nothing to replay.")

    def mean(name: str) -> Any:
        total, count = sums[name]
        return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)

    names = ("weight", "removed", "cosine", "conflict")
    by_task = {name: [_known(value) for value in mean(name)] for name in names}
    effects = tuple(TaskEffect(task, *(by_task[name][t] for name in names)) for t, task in enumerate(info.task_names))
    removed = sums["removed"].sum(axis=1)
    return Replay(
        rule,
        scope,
        branches,
        order,
        steps=int(sums["steps"][0]),
        projected=_known(mean("projected")),
        removed=_known(removed[0] / removed[1]) if removed[1] else None,
        agreement=_known(mean("agreement")),
        direction=_known(mean("direction")),
        tasks=effects,
        left_out=len(_counts(run, order == "recorded")) - int(sums["steps"][0]),
    )


def document(run: Path, replays: list[Replay]) -> dict[str, Any]:
    """Ready for JSON."""
    info = read_run(run)
    taken = {"method": info.method, "rule": info.rule, "scope": info.scope}
    return {"run": info.run_id, "taken": taken, "note": NOTE, "replays": [asdict(found) for found in replays]}


def steps_of(run: Path, info: RunInfo, rows: int = _ROWS, *, orders: bool = True) -> Iterator[Steps]:
    """The recorded steps, in order, as many at a time as make `rows` rows of `pairs` and `norms`.

    Steps of which rows are missing, as a part was lost, are left out.

    Raises:
        OrthoLoraError: of no step are all rows recorded, with `orders` also the order; or tasks share several adapters.
    """
    if info.groups:
        raise OrthoLoraError(
            f"{run}: its tasks share {len(info.groups)} adapters ({groups_text(info.groups)}), and gradients of"
            " different ones never meet: only a run with one adapter is replayed."
        )
    tasks = len(info.task_names)
    counts = _counts(run, orders)
    if tasks < 2 or counts.empty or not (counts["pairs"] > 0).any():
        return
    blocks = int(counts["norms"].max()) // tasks
    expected = {"norms": blocks * tasks, "pairs": blocks * tasks * (tasks - 1) // 2}
    recorded = (counts[list(expected)] == pd.Series(expected)).all(axis=1)
    if not recorded.any():
        raise OrthoLoraError(
            f"{run}: no step has all of its rows, {expected['norms']} norms and {expected['pairs']} pairs: parts of"
            " the record are missing."
        )
    if orders and not (ordered := recorded & (counts["orders"] == tasks)).any():
        raise OrthoLoraError(f"{run}: the orders of its steps are not recorded; use the mean over all orders.")
    numbers = counts.loc[ordered if orders else recorded, "step"].to_numpy(np.int64)
    size = max(rows // max(sum(expected.values()), 1), 1)
    for first in range(0, len(numbers), size):
        yield _read(run, info, numbers[first : first + size], orders)


def _counts(run: Path, orders: bool) -> pd.DataFrame:
    """How many rows each step has that has any: step, norms, pairs; orders: of its tasks that have one."""
    sql = """
        SELECT step, coalesce(norms, 0) AS norms, coalesce(pairs, 0) AS pairs
        FROM (SELECT step, count(*) AS norms FROM norms GROUP BY step)
            FULL JOIN (SELECT step, count(*) AS pairs FROM pairs GROUP BY step) USING (step)
        ORDER BY step
        """
    found = ask_once(run, ["norms", "pairs"], sql, Selection(), {}, "by_block")
    if orders:
        sql = 'SELECT step, count("order") AS orders FROM steps GROUP BY step'
        found = found.merge(ask_once(run, ["steps"], sql, Selection(), {}, "by_block"), on="step", how="left")
        found["orders"] = found["orders"].fillna(0)
    return found


def apply(
    part: Steps,
    rule: str,
    scope: str = "block",
    branches: str = "both",
    order: str = "recorded",
    state: Floats | None = None,
) -> Replayed:
    """Apply a rule to the Gram matrices of steps, summed over the scope.

    Args:
        part, rule, scope, branches, order: as in `replay`.
        state: of the steps before; only gradvac has one.
    """
    groups, count = _groups(part.blocks, scope, branches)
    steps, _, tasks, _ = part.gram.shape
    member = np.zeros((count, len(groups)))
    member[groups[groups >= 0], np.flatnonzero(groups >= 0)] = 1
    gram = part.gram if scope == "block" and branches == "both" else np.einsum("gn,snij->sgij", member, part.gram)
    if order == "mean" or part.orders is None:
        orders = np.array(list(permutations(range(tasks))))[:, None]  # [O, 1, T]
    else:
        orders = part.orders[None]  # [1, S, T]
    coefficients, projected, state = project(gram, rule, orders, state)
    alone = np.broadcast_to(np.eye(tasks), (steps, 1, tasks, tasks))
    coefficients = np.concatenate([alone, coefficients], axis=1)[:, groups + 1]  # row 0: the blocks of no group
    nothing = np.zeros((steps, 1, tasks, tasks), dtype=bool)
    return Replayed(coefficients, np.concatenate([nothing, projected], axis=1)[:, groups + 1], state)


def _check(info: RunInfo, rule: str, scope: str, branches: str, order: str) -> None:
    for name, value, known in (
        ("rule", rule, RULES),
        ("scope", scope, SCOPES),
        ("branches", branches, ("both", *BRANCHES)),
        ("order", order, ORDERS),
    ):
        if value not in known:
            raise OrthoLoraError(f"{name}: expected one of {', '.join(known)}, found {value!r}.")
    if order == "mean" and len(info.tasks) > _LARGEST_MEAN:
        raise OrthoLoraError(
            f"order: the mean over all orders expects at most {_LARGEST_MEAN} tasks, found {len(info.tasks)}; "
            "use the recorded order."
        )


def _read(run: Path, info: RunInfo, numbers: Places, orders: bool) -> Steps:
    names = info.task_names
    tasks, steps = len(names), len(numbers)
    selection = Selection(steps=(int(numbers[0]), int(numbers[-1])))
    order = "WHERE list_contains($steps, step) ORDER BY step, layer, module, branch"
    parameters = {"tasks": names, "steps": numbers.tolist()}
    norms = ask(
        run,
        ["norms"],
        f"SELECT * FROM norms {order}, list_position($tasks, CAST(task AS VARCHAR))",
        selection,
        parameters,
    )
    pairs = ask(
        run,
        ["pairs"],
        f"""SELECT cos_before FROM pairs {order}, list_position($tasks, CAST(task_i AS VARCHAR)),
            list_position($tasks, CAST(task_j AS VARCHAR))""",
        selection,
        parameters,
    )
    first = norms.iloc[: len(norms) // steps : tasks]
    blocks = tuple(zip(first["layer"].astype(int), first["module"], first["branch"], strict=True))
    count, i, j = len(blocks), *np.triu_indices(tasks, 1)
    norm = np.nan_to_num(norms["norm_before"].to_numpy(np.float64)).reshape(steps, count, tasks)
    cosine = np.broadcast_to(np.eye(tasks), (steps, count, tasks, tasks)).copy()
    cosine[..., i, j] = cosine[..., j, i] = np.nan_to_num(
        pairs["cos_before"].to_numpy(np.float64).reshape(steps, count, len(i))
    )
    weights = np.nan_to_num(norms["weight"].to_numpy(np.float64)).reshape(steps, count, tasks)
    gram = cosine * norm[..., :, None] * norm[..., None, :]
    return Steps(numbers, blocks, gram, weights, _orders(run, names, numbers, selection) if orders else None)


def _orders(run: Path, names: list[str], numbers: Places, selection: Selection) -> Places | None:
    rows = ask(run, ["steps"], 'SELECT step, task, "order" FROM steps', selection)
    rows = rows[rows["step"].isin(numbers)]
    place = rows.pivot(index="step", columns="task", values="order").reindex(index=numbers, columns=names)
    found = place.to_numpy(np.int64)
    if (found < 0).any():
        return None
    return found.argsort(axis=1)


def _groups(blocks: tuple[tuple[int, str, str], ...], scope: str, branches: str) -> tuple[Places, int]:
    """The group of each block, -1 for blocks of a branch that is left alone, and how many groups there are."""
    numbers: dict[Any, int] = {}
    keys = [{"block": block, "module": block[:2], "model": ()}[scope] for block in blocks]
    found = [
        numbers.setdefault(key, len(numbers)) if branches in ("both", block[2]) else -1
        for key, block in zip(keys, blocks, strict=True)
    ]
    return np.array(found, dtype=np.int64), len(numbers)


def _measure(part: Steps, found: Replayed) -> dict[str, Floats]:
    """Sums over the steps, and counts of what went into them: each [2] or [2, T]."""
    gram, weights = part.gram, found.coefficients.sum(axis=-2)  # [S, N, T]
    tasks = gram.shape[-1]
    before = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    norms, _ = after(gram, found.coefficients)
    there = before > 0
    measured = there[..., :, None] & there[..., None, :] & ~np.eye(tasks, dtype=bool)

    towards = np.einsum("snj,snji->si", weights, gram)  # <update, g_i>
    square = np.einsum("snj,snji,sni->s", weights, gram, weights)
    taken = np.einsum("snj,snji,sni->s", part.weights, gram, part.weights)
    common = np.einsum("snj,snji,sni->s", weights, gram, part.weights)
    whole = (before**2).sum(axis=1)  # [S, T]
    cosine = _divided(towards, np.sqrt(square.clip(min=0)[:, None] * whole))
    agreement = _divided(common, np.sqrt(square.clip(min=0) * taken.clip(min=0)))
    of_block = np.einsum("snj,snji,sni->sn", weights, gram, weights)
    plain = gram.sum(axis=(-2, -1))
    plain[plain <= _RESIDUE * (before**2).sum(axis=-1)] = 0  # what is left of opposites is rounding error
    turned = _divided(np.einsum("snj,snji->sn", weights, gram), np.sqrt(of_block.clip(min=0) * plain))
    removed = np.where(there, 1 - _divided(norms, before), np.nan)
    conflict = np.where(np.isnan(cosine), np.nan, cosine < 0)
    return {
        "steps": np.array([len(gram), 1.0]),
        "projected": np.array([(found.projected & measured).sum(), measured.sum()], dtype=np.float64),
        "weight": _sums(np.where(there, weights, np.nan), (0, 1)),
        "removed": _sums(removed, (0, 1)),
        "cosine": _sums(cosine, (0,)),
        "conflict": _sums(conflict, (0,)),
        "agreement": _sums(agreement, (0,)),
        "direction": _sums(turned, (0, 1)),
    }


def _sums(values: Floats, axes: tuple[int, ...]) -> Floats:
    return np.stack([np.nansum(values, axis=axes), (~np.isnan(values)).sum(axis=axes)])


def _divided(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
