"""The data of every figure and verdict under one name each.

`DATA` is the one list of them: `python -m analysis export` writes what stands in it (`output.files`), and a page that
offers a figure's numbers can take them from `frame_of`, so that both give the same.
"""

import difflib
from collections.abc import Callable, Sequence, Set
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from analysis.conflict import queries, replay
from analysis.conflict.snapshots import snapshot_blocks, snapshot_layers, snapshot_table
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.verdicts import Branch, Harm, Pair
from analysis.outcomes.beside import Outcome, outcomes
from analysis.reading.database import Selection
from analysis.transfer.advice import advised_groups
from analysis.transfer.predicted import over_transfer, transfer_matrix
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import layer_name
from ortho_lora.record.schema import read_run

_Question = Callable[[Path, Selection, tuple[str, str] | None], pd.DataFrame]

_PART = ("steps", "layers", "modules", "branches")


@dataclass(frozen=True)
class Data:
    """The data of one figure, table or verdict."""

    description: str
    takes: tuple[str, ...]
    """Which parts of a record can be chosen: of steps, layers, modules, branches and pair."""
    question: _Question


def frame_of(
    name: str, runs: Sequence[Path], selection: Selection | None = None, pair: tuple[str, str] | None = None
) -> pd.DataFrame:
    """The data of that name of some runs, with the run's name in the first column; a null: nothing was measured.

    Args:
        name: one of `DATA`.
        runs: directories of runs.
        selection, pair: the part of their records; None: all of it.

    Raises:
        OrthoLoraError: there is no such name, task, layer or module; the data of that name cannot be chosen from like
            that; or a record cannot be read.
    """
    data = data_of(name)
    selection = selection or Selection()
    if refused := [part for part in _chosen(selection, pair) if part not in data.takes]:
        expected = f", only by {', '.join(data.takes)}" if data.takes else "; it is always of the whole run"
        raise OrthoLoraError(f"{name}: cannot be chosen by {', '.join(refused)}{expected}.")
    frames = []
    for run in runs:
        check_part(run, selection, pair)
        frame = data.question(run, selection, pair)
        if "run" not in frame.columns:
            frame.insert(0, "run", run.name)
        frames.append(frame)
    full = [frame for frame in frames if len(frame)] or frames[:1]
    found = pd.concat(full, ignore_index=True)
    untyped = [column for column in found.columns if found[column].dtype == object]
    return found.astype(dict.fromkeys(untyped, "str"))  # text, though there may be no rows to tell


def data_of(name: str) -> Data:
    """The data of that name; OrthoLoraError names the nearest where there are none."""
    if name not in DATA:
        near = difflib.get_close_matches(name, DATA, n=1)
        nearest = f"; nearest: {near[0]}" if near else ""
        raise OrthoLoraError(f"data {name!r}: expected one of {', '.join(DATA)}{nearest}.")
    return DATA[name]


def check_part(run: Path, selection: Selection, pair: tuple[str, str] | None) -> None:
    """Raise OrthoLoraError where a run has no such task, layer or module, or where steps end before they start."""
    if pair is not None:
        known = read_run(run).task_names
        if pair[0] == pair[1] or not {*pair} <= {*known}:
            raise OrthoLoraError(
                f"pair: {pair[0]!r} and {pair[1]!r} given, expected two different tasks of {run.name}: "
                f"{', '.join(known)}."
            )
    if selection.steps and selection.steps[0] > selection.steps[1]:
        raise OrthoLoraError(
            f"steps: {selection.steps[0]} to {selection.steps[1]} given, expected the first not after the last."
        )
    if selection.layers is not None or selection.modules is not None:
        extent = queries.extent(run)
        for part, given, there in (
            ("layer", _named(selection.layers), _named(extent.layers)),
            ("module", selection.modules or (), extent.modules),
        ):
            for one in given:
                if one not in there:
                    listed = ", ".join(map(str, there)) or "none yet"
                    raise OrthoLoraError(f"{part} {one}: not in the record of {run.name}; expected one of {listed}.")


def _named(layers: tuple[int, ...] | None) -> list[str]:
    return [layer_name(layer) for layer in layers or ()]


def _chosen(selection: Selection, pair: tuple[str, str] | None) -> list[str]:
    """What is asked for in part only."""
    given = {part: getattr(selection, part) for part in _PART} | {"pair": pair}
    return [part for part, value in given.items() if value is not None]


def _whole(
    description: str, question: Callable[[Path, Selection], pd.DataFrame], takes: tuple[str, ...] = _PART
) -> Data:
    """Of a frame that knows no pairs."""
    return Data(description, takes, lambda run, selection, pair: question(run, selection))


def _by_pair(
    description: str, question: Callable[[Path, Selection], pd.DataFrame], takes: tuple[str, ...] = (*_PART, "pair")
) -> Data:
    """Of a frame with two columns of tasks, whose rows of one pair can be chosen."""

    def chosen(run: Path, selection: Selection, pair: tuple[str, str] | None) -> pd.DataFrame:
        frame = question(run, selection)
        if pair is None:
            return frame
        one, other = ("task", "against") if "against" in frame.columns else ("task_i", "task_j")
        there = (frame[one] == pair[0]) & (frame[other] == pair[1])
        back = (frame[one] == pair[1]) & (frame[other] == pair[0])
        return frame[there | back].reset_index(drop=True)

    return Data(description, takes, chosen)


def _each_pair(description: str, question: Callable[[Path, tuple[str, str], Selection], pd.DataFrame]) -> Data:
    """Of a question about one pair, asked of all of them."""

    def asked(run: Path, selection: Selection, pair: tuple[str, str] | None) -> pd.DataFrame:
        recorded = queries.extent(run).pairs
        wanted = [one for one in recorded if pair is None or {*one} == {*pair}] or [("", "")]  # none: no rows
        frames = []
        for one, other in wanted:
            frame = question(run, (one, other), selection)
            frame.insert(0, "task_i", one)
            frame.insert(1, "task_j", other)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    return Data(description, (*_PART, "pair"), asked)


def verdict_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """A row for each pair and branch, with all that is known of it but its windows and places."""
    rows = [(pair, branch, pair.whole) for pair in pairs for branch in pair.branches]
    return pd.concat(
        [
            _columns(Pair, [pair for pair, _, _ in rows], without={"whole", "branches"}).rename(
                columns={name: f"pair_{name}" for name in ("verdict", "cosine", "low", "high")}
            ),
            _columns(Branch, [branch for _, branch, _ in rows], without={"windows", "places"}),  # `windows`, `blocks`
            _columns(Harm, [whole for _, _, whole in rows]).add_prefix("whole_"),
        ],
        axis=1,
    )


def outcome_table(found: Sequence[Outcome]) -> pd.DataFrame:
    """A row for each outcome, with the number of its seeds."""
    return _columns(Outcome, found, without={"seeds", "runs"}).assign(seeds=[len(one.seeds) for one in found])


def replay_frame(run: Path) -> pd.DataFrame:
    """What the methods of `replay.INTERESTING` would have done: a row for each of them and task."""
    rows = [(one, effect) for one in replay_table(run) for effect in one.tasks]
    effects = _columns(replay.TaskEffect, [effect for _, effect in rows]).add_prefix("task_")
    methods = _columns(replay.Replay, [one for one, _ in rows], without={"tasks"})
    return pd.concat([methods, effects.rename(columns={"task_task": "task"})], axis=1)


def _columns(kind: type, values: Sequence[Any], without: Set[str] = frozenset()) -> pd.DataFrame:
    """A column for each field of a dataclass, of the field's type also where there are no values."""
    return pd.DataFrame(
        {
            field.name: pd.Series([getattr(value, field.name) for value in values], dtype=_dtype(field))
            for field in fields(kind)
            if field.name not in without
        }
    )


def _dtype(field: Field[Any]) -> str:
    kind: Any = next(iter(get_args(field.type)), field.type)  # of `float | None` the first
    return {float: "float64", int: "Int64", bool: "boolean"}.get(kind, "str")


def replay_table(run: Path) -> list[replay.Replay]:
    """The methods of `replay.INTERESTING` on a run; none where it has no pairs."""
    if not queries.extent(run).pairs:
        return []
    return [replay.replay(run, *method) for method in replay.INTERESTING]


DATA: dict[str, Data] = {
    "matrix": _by_pair(
        "How each pair of tasks agrees: cosine with its verdict, cosines of batches, share of conflicts, intervals.",
        queries.task_matrix,
    ),
    "snapshots": _by_pair(
        "How the tasks' mean gradients agree at each snapshot: cosine with interval and verdict, by branch and metric.",
        snapshot_table,
    ),
    "snapshot-layers": _by_pair("The same on each layer, in the metric of the run's optimizer.", snapshot_layers),
    "snapshot-blocks": _by_pair("The last snapshot on each block, and where the verdict shows.", snapshot_blocks),
    "transfer": _whole(
        "What each task does to each other's validation loss in nats a step, by the snapshots that count together.",
        lambda run, _: transfer_matrix(run),
        takes=(),
    ),
    "transfer-snapshots": _whole(
        "The same at each snapshot with held-out texts.",
        lambda run, _: over_transfer(run),
        takes=(),
    ),
    "transfer-groups": _whole(
        "Which tasks should share an adapter, for each number of adapters.",
        lambda run, _: advised_groups(run),
        takes=(),
    ),
    "noise": _whole(
        "What two halves of a task's own batches agree on, the floor to read cosines against.", queries.noise
    ),
    "windows": _by_pair("How each pair agrees in each of up to 8 windows of steps.", queries.windows),
    "layer-step": _each_pair("Mean cosine of each pair by layer and bin of steps.", queries.layer_step),
    "pair-over-steps": _each_pair(
        "Mean, lowest and highest cosine of each pair by bin of steps.", queries.pair_over_steps
    ),
    "blocks": _by_pair(
        "Mean cosine of each pair on each block, and where the verdict on the pair shows.", queries.blocks
    ),
    "worst-blocks": _whole(
        "The 20 pairs and blocks with the lowest mean cosine, and how sure that is.", queries.worst_blocks
    ),
    "norms": _whole(
        "Mean and greatest norm of each task's gradient on a block, before and after the rule, by bin of steps.",
        queries.norms_over_steps,
    ),
    "batches-needed": _by_pair("How many more steps it takes until each pair has a verdict.", queries.batches_needed),
    "projection-over-steps": _whole(
        "How often, and how far, gradients were projected, by bin of steps.", queries.projection_over_steps
    ),
    "projection-by-layer": _whole("The same by layer.", queries.projection_by_layer),
    "projection-by-pair": _by_pair(
        "Which task was projected against which, how often and how far.", queries.projection_by_pair
    ),
    "weights": _whole("Effective weight of each task's gradient in the update, by bin of steps.", queries.weights),
    "metrics": _whole(
        "Every metric of every task at every evaluation.", lambda run, _: queries.metrics([run]), takes=()
    ),
    "losses": _whole(
        "Training loss of each task and learning rate, by bin of steps.", lambda run, _: queries.losses([run]), takes=()
    ),
    "verdicts": _by_pair(
        "The verdict on each pair and branch with all its evidence, as of `diagnose`.",
        lambda run, _: verdict_table(diagnose(run).pairs if queries.extent(run).pairs else ()),
        takes=("pair",),
    ),
    "outcomes": _whole(
        "Gains over joint training, from the finished runs beside this one.",
        lambda run, _: outcome_table(outcomes(run)),
        takes=(),
    ),
    "replay": _whole(
        "What other rules and scopes would have done one step ahead, for each task.",
        lambda run, _: replay_frame(run),
        takes=(),
    ),
}
"""Name -> data of every figure."""
