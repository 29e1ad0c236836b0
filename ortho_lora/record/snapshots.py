"""A snapshot: products of the tasks' gradients across groups of texts at one place, and what they say. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Cosines, Effects, Floats
from ortho_lora.record.judge import Estimates
from ortho_lora.record.products import cosines, transfers
from ortho_lora.record.tables import SCHEMAS, SNAPSHOTS_BY_LAYER
from ortho_lora.record.texts import Texts
from ortho_lora.record.vectors import Vectors

MetricName = Literal["plain", "adamw"]
METRICS = get_args(MetricName)


def metric_of(optimizer: object) -> MetricName:
    """What an optimizer of a configuration, by name, makes of gradients."""
    return "plain" if optimizer == "sgd" else "adamw"


def together(known: Sequence[tuple[int, str, int]], *, of_training: bool) -> list[int]:
    """The steps of the snapshots whose products are added up for one answer; none: there are none.

    Those of a training are all of them: each is of other parameters, but of the same groups of texts, so that a sum
    without a group is a sum of independent rest, and what is told is how the tasks' gradients agree along the way. Of a
    loop whose groups need not stand for the same texts it is the last alone.

    Args:
        known: step, task and number of groups of each task of each snapshot.
        of_training: whether `train` took them.
    """
    steps = sorted({step for step, _, _ in known})
    counts = {(task, groups) for _, task, groups in known}
    same = len(counts) == len({task for task, _ in counts})
    return steps if same and of_training else steps[-1:]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Of N blocks, T tasks, S held-out targets and m groups of texts; NaN where a task has texts in fewer than 8.

    Where sums are sketched, estimates that tell of the sketch's error stand as if they left groups out.
    """

    tasks: tuple[str, ...]
    targets: tuple[str, ...]  # tasks whose held-out texts were looked at
    blocks: tuple[tuple[int, str, str], ...]  # layer, module, branch
    products: Mapping[str, Floats]  # by metric, of the tasks: all groups, then without each, [1 + m, N, T, T]
    held_out: Mapping[str, Floats]  # by metric, <h_i, P g_j> likewise, [1 + m, N, S, T]
    groups: NDArray[np.int64]  # in which each task has texts, [T]
    target_groups: NDArray[np.int64]  # and each target, [S]
    batches: NDArray[np.int64]  # of each task, [T]
    target_batches: NDArray[np.int64]  # and each target, [S]
    losses: NDArray[np.float64]  # mean over batches, [T]
    target_losses: NDArray[np.float64]  # [S]
    exact: bool  # whether sums were kept as they are; else as sketches
    of_optimizer: bool  # whether AdamW's metric is the optimizer's; else that of the snapshot's own squares
    vectors: Vectors | None = None  # what other mixtures are asked by; None: there are no targets
    texts: tuple[Texts, ...] = ()  # single held-out texts, by target

    def estimates(
        self,
        metric: MetricName = "adamw",
        *,
        branch: str | None = None,
        layer: int | None = None,
        module: str | None = None,
    ) -> Cosines:
        """Of all ordered pairs, [T * T], over the blocks that are chosen.

        Raises:
            OrthoLoraError: there is no such metric or block.
        """
        chosen = self._chosen(metric, branch, layer, module)
        return cosines(self.products[metric][:, chosen].sum(axis=1), self.groups)

    def cosines(
        self,
        metric: MetricName = "adamw",
        *,
        branch: str | None = None,
        layer: int | None = None,
        module: str | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """The cosine of each two tasks' true gradients, with the ends of its 95% interval, [T, T] each.

        The value is NaN where the gradient of one of the two is not clear of its noise; the ends are then -1 and 1, or
        one side of 0. All three are NaN where there is no gradient, or too little text: fewer than 8 groups of a task.

        Args:
            metric: `plain`, or `adamw`: what the optimizer makes of it.
            branch: `A` or `B`; None: both. `layer` and `module` likewise.

        Raises:
            OrthoLoraError: there is no such metric or block.
        """
        found, shape = self.estimates(metric, branch=branch, layer=layer, module=module), (len(self.tasks),) * 2
        known = Estimates.of_snapshot(found)
        return found.value.reshape(shape), known.low.reshape(shape), known.high.reshape(shape)

    def effects(self, learning_rate: float, metric: MetricName = "adamw") -> Effects:
        """Of all pairs of a target and a task, [S * T]. Raises as `transfer`."""
        if not self.targets:
            raise OrthoLoraError(
                "transfer: no targets were given to `snapshot`: give batches of held-out texts by task."
            )
        chosen = self._chosen(metric, None, None, None)
        groups = self.target_groups, self.groups
        return transfers(self.held_out[metric][:, chosen].sum(axis=1), learning_rate, groups)

    def transfer(self, learning_rate: float, metric: MetricName = "adamw") -> tuple[Floats, Floats, Floats]:
        """What a step for each task does to each target's held-out loss, to first order, with its 95% interval.

        Args:
            learning_rate: of the step.
            metric: `adamw`: a step of the optimizer; `plain`: one of gradient descent.

        Returns:
            Value, low and high in nats a step, [S, T] each; below 0 it helps. NaN where there is too little text.

        Raises:
            OrthoLoraError: there is no such metric, or there are no targets.
        """
        found, shape = self.effects(learning_rate, metric), (len(self.targets), len(self.tasks))
        low, high = found.interval()
        value = np.where(np.isnan(found.freedom), np.nan, found.value)
        return value.reshape(shape), low.reshape(shape), high.reshape(shape)

    @property
    def row_count(self) -> int:
        """Of the table `snapshots`."""
        size, targets = len(self.tasks), len(self.targets)
        pairs = size * (size + 1) // 2 + targets * size
        return len(METRICS) * pairs * len(self.blocks) * len(self.products["plain"])

    def tables(self, step: int) -> dict[str, pa.Table]:
        """Its rows of the table `snapshots`, and their sums over the modules of each layer."""
        places = [(layer, branch) for layer, _, branch in self.blocks]
        layers = sorted(set(places))
        member = np.array([[place == layer for place in places] for layer in layers], np.float64)  # [L, N]
        sums = [
            {metric: np.einsum("ln,gnij->glij", member, values, optimize=True) for metric, values in of.items()}
            for of in (self.products, self.held_out)
        ]
        by_layer = replace(
            self, blocks=tuple((layer, "", branch) for layer, branch in layers), products=sums[0], held_out=sums[1]
        )
        of_pairs = {name: of._table(step, name) for name, of in (("snapshots", self), (SNAPSHOTS_BY_LAYER, by_layer))}
        beside = {} if self.vectors is None else {"vectors": self.vectors.table(step)}
        if self.texts:
            beside["texts"] = pa.concat_tables([of.table(step) for of in self.texts]).unify_dictionaries()
        return {"snapshot_tasks": self._of_tasks(step), **of_pairs, **beside}

    def _of_tasks(self, step: int) -> pa.Table:
        names = [*self.tasks, *self.targets]
        count = len(names)
        columns = {
            "step": [step] * count,
            "target": [place >= len(self.tasks) for place in range(count)],
            "task": names,
            "batches": np.concatenate([self.batches, self.target_batches]),
            "groups": np.concatenate([self.groups, self.target_groups]),
            "loss": np.concatenate([self.losses, self.target_losses]),
            "exact": [self.exact] * count,
            "of_optimizer": [self.of_optimizer] * count,
        }
        return pa.table(columns).select(SCHEMAS["snapshot_tasks"].names).cast(SCHEMAS["snapshot_tasks"])

    def _table(self, step: int, name: str) -> pa.Table:
        pieces = []
        i, j = np.triu_indices(len(self.tasks))
        for metric in METRICS:
            pieces.append(self._rows(step, name, metric, False, self.tasks, self.products[metric][:, :, i, j], (i, j)))
            if self.targets:
                i_all, j_all = (of.ravel() for of in np.indices((len(self.targets), len(self.tasks))))
                values = self.held_out[metric][:, :, i_all, j_all]
                pieces.append(self._rows(step, name, metric, True, self.targets, values, (i_all, j_all)))
        return pa.concat_tables(pieces).unify_dictionaries()

    def _rows(
        self,
        step: int,
        table: str,
        metric: str,
        target: bool,
        first: tuple[str, ...],
        values: Floats,
        pair: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> pa.Table:
        """Of `values` [1 + m, N, pairs]: block by block, pair by pair, all groups before those without one."""
        groups, blocks, pairs = values.shape
        shape = blocks, pairs, groups

        def spread(codes: NDArray[np.int64], axis: int) -> NDArray[np.int32]:
            along = [1, 1, 1]
            along[axis] = -1
            return np.broadcast_to(codes.astype(np.int32).reshape(along), shape).ravel()

        def named(codes: NDArray[np.int32], names: list[str]) -> pa.Array:
            return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))

        count = blocks * pairs * groups
        layers, modules, branches = zip(*self.blocks, strict=True)
        known_modules, module_codes = np.unique(modules, return_inverse=True)
        known_branches, branch_codes = np.unique(branches, return_inverse=True)
        group = spread(np.arange(groups) - 1, 2)
        columns = {
            "step": pa.array(np.full(count, step, np.int32)),
            "metric": named(np.zeros(count, np.int32), [metric]),
            "target": pa.array(np.full(count, target)),
            "layer": pa.array(spread(np.array(layers), 0).astype(np.int16)),
            "module": named(spread(module_codes, 0), known_modules.tolist()),
            "branch": named(spread(branch_codes, 0), known_branches.tolist()),
            "task_i": named(spread(pair[0], 1), list(first)),
            "task_j": named(spread(pair[1], 1), list(self.tasks)),
            "group": pa.array(group.astype(np.int16), mask=group < 0),
            "product": pa.array(np.moveaxis(values, 0, 2).ravel(), from_pandas=True),
        }
        schema = SCHEMAS[table]
        return pa.Table.from_arrays(
            [columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema
        )

    def _chosen(self, metric: str, branch: str | None, layer: int | None, module: str | None) -> NDArray[np.bool_]:
        if metric not in METRICS:
            raise OrthoLoraError(f"metric: {metric!r} given, expected one of {', '.join(METRICS)}.")
        wanted = layer, module, branch
        chosen = [
            all(want is None or want == has for want, has in zip(wanted, block, strict=True)) for block in self.blocks
        ]
        if not any(chosen):
            given = ", ".join(
                f"{name} {want!r}"
                for name, want in zip(("layer", "module", "branch"), wanted, strict=True)
                if want is not None
            )
            raise OrthoLoraError(
                f"no block has {given}: expected one of layers {_listed({of[0] for of in self.blocks})}, modules"
                f" {_listed({of[1] for of in self.blocks})}, branches {_listed({of[2] for of in self.blocks})}."
            )
        return np.array(chosen)


def _listed(values: set[int] | set[str]) -> str:
    return ", ".join(map(str, sorted(values)))
