"""Takes a snapshot in anyone's loop: gradients of many batches at fixed parameters, of which nothing stays but sums."""

import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.products import across_groups
from ortho_lora.record.snapshots import Snapshot
from ortho_lora.surgery import sketched
from ortho_lora.surgery.adamw import Metric
from ortho_lora.surgery.arguments import check_loss
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.groups import Groups, groups_of
from ortho_lora.surgery.sums import BYTES, Extent, Sums

Drawn = TypeVar("Drawn")  # a batch, whatever the loop has


class Taker:
    """Adds up the gradients of one batch after another, and makes a snapshot of those that there are.

    Batches of different tasks may come in any order: each is added to the sums of its own task and group.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        tasks: Sequence[str],
        targets: Sequence[str],
        groups: int,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        loss_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        limit_bytes: int = BYTES,
    ) -> None:
        """Begin with nothing; `groups`: m, the others as in `snapshot`. Raises as `Sums`."""
        self.blocks, self.tasks, self.targets = blocks, tuple(tasks), tuple(targets)
        extent = Extent(groups, len(self.tasks), len(self.targets))
        self.sums = Sums([block.parameter for block in blocks], extent, seed=seed, limit_bytes=limit_bytes)
        weights = [1.0 if loss_weights is None else loss_weights[name] for name in self.tasks]
        self.metric = Metric(self.sums.parameters, optimizer, weights)
        self._losses: list[tuple[int, int, Tensor]] = []  # column, number of the batch, loss: not looked at yet

    @property
    def taken(self) -> int:
        """Batches that every task has."""
        return int(self.sums.batches[:, : len(self.tasks)].sum(0).min())

    def take(self, name: str, group: int, loss: Tensor, *, held_out: bool = False) -> None:
        """Make one backward pass; each block's gradient is added up and forgotten as soon as it is there.

        Args:
            name: of the task.
            group: of the batch's texts, below m.
            loss: of the batch.
            held_out: whether its texts are of the task's target.

        Raises:
            OrthoLoraError: the loss is none to start from.
        """
        column = len(self.tasks) + self.targets.index(name) if held_out else self.tasks.index(name)
        check_loss(f"task {name!r}", loss)
        go_back(loss, self.blocks, lambda index, gradient: self.sums.blocks[index].add(column, group, gradient))
        self._losses.append((column, int(self.sums.batches[:, column].sum()), loss.detach()))
        self.sums.batches[group, column] += 1

    def settle(self) -> list[float]:
        """The losses of the batches since the last look at them: to wait for a device after every batch takes time.

        Raises:
            OrthoLoraError: one is not finite.
        """
        waiting, self._losses = self._losses, []
        values: list[float] = torch.stack([loss.float() for *_, loss in waiting]).tolist() if waiting else []
        for (column, batch, _), value in zip(waiting, values, strict=True):
            if not math.isfinite(value):
                name, held_out = [*self.tasks, *self.targets][column], column >= len(self.tasks)
                raise OrthoLoraError(
                    f"snapshot: the loss of task {name!r} is {value} in {'held-out ' * held_out}batch {batch}: no"
                    " parameters changed, so it comes with these; leave the batch out, or compute it in float32."
                )
            self.sums.losses[column] += value
        return values

    def reduce(self) -> None:
        """Add up what all processes have, once and at the end."""
        self.settle()
        self.sums.reduce()

    def look(self) -> Snapshot:
        """What there is by now, of all tasks: each needs a batch.

        Raises:
            OrthoLoraError: a loss or gradient is not finite.
        """
        self.settle()
        size, sums = len(self.tasks), self.sums
        used = (sums.batches > 0).any(1).numpy()
        has = (sums.batches > 0).double().numpy()[used]  # [m, C]
        of_tasks, of_targets = has[:, :size], has[:, size:]
        products, held_out = {}, {}
        for name, by in (("plain", None), ("adamw", self.metric)):
            found = [of.numpy()[used] for of in sums.products(by)]
            if not all(np.isfinite(of).all() for of in found):
                raise OrthoLoraError(
                    "snapshot: a gradient is not finite, though every loss is: compute the losses in float32, or"
                    " without a scale."
                )
            products[name], held_out[name] = self._of(found, has)
        batches = sums.batches.sum(0).numpy().astype(np.int64)
        means = sums.losses.double().numpy() / np.maximum(batches, 1)
        return Snapshot(
            tasks=self.tasks,
            targets=self.targets,
            blocks=tuple((block.layer, block.module, block.branch) for block in self.blocks),
            products=products,
            held_out=held_out,
            groups=of_tasks.sum(0).astype(np.int64),
            target_groups=of_targets.sum(0).astype(np.int64),
            batches=batches[:size],
            target_batches=batches[size:],
            losses=means[:size],
            target_losses=means[size:],
            exact=sums.exact,
            of_optimizer=self.metric.of_optimizer,
            vectors=sums.vectors(self.metric, self.tasks, self.targets) if self.targets else None,
        )

    def _of(self, found: list[Floats], has: Floats) -> tuple[Floats, Floats]:
        """Of the tasks, and of targets and tasks, from what `Sums.products` found; `has`: [m, C]."""
        size = len(self.tasks)
        tasks, targets = slice(size), slice(size, None)

        def across(one: slice, other: slice, apart: bool) -> Floats:
            cross, back, same = (of[..., one, other] for of in found)
            return across_groups(cross, back, same, (has[:, one], has[:, other]), apart=apart)

        of_tasks, of_targets = across(tasks, tasks, False), across(targets, tasks, True)
        if self.sums.exact:
            return of_tasks, of_targets
        beside = of_targets[0]
        own = across(targets, targets, False)[0]
        whole = np.block([[of_tasks[0], beside.swapaxes(-1, -2)], [beside, own]])
        widths = np.array([width or np.inf for width in self.sums.widths])
        drawn = sketched.left_out(whole, widths, len(has))
        return np.concatenate([of_tasks, drawn[..., tasks, tasks]]), np.concatenate(
            [of_targets, drawn[..., targets, tasks]]
        )


def go_back(loss: Tensor, blocks: Sequence[Block], see: Callable[[int, Tensor], None]) -> None:
    """Make one backward pass; each block's gradient is seen, with its place, once it is there, and then forgotten."""

    def arrived(index: int, parameter: Tensor) -> None:
        if parameter.grad is not None:
            see(index, parameter.grad)
            parameter.grad = None

    handles = [
        block.parameter.register_post_accumulate_grad_hook(partial(arrived, index))
        for index, block in enumerate(blocks)
    ]
    try:
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()


def snapshot(
    model: nn.Module,
    blocks: Sequence[Block],
    tasks: Sequence[str],
    batches: Mapping[str, Iterable[Drawn]],
    loss_of: Callable[[str, Drawn], Tensor],
    *,
    targets: Mapping[str, Iterable[Drawn]] | None = None,
    groups: Mapping[str, Sequence[Hashable]] | None = None,
    target_groups: Mapping[str, Sequence[Hashable]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    loss_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    limit_bytes: int,
) -> Snapshot:
    """See `OrthoLoRA.snapshot`, whose blocks and tasks these are; `target_groups`: as `groups`, of the targets."""
    names, aims = _in_order("batches", batches, tasks), _in_order("targets", targets or {}, tasks)
    if not names:
        raise OrthoLoraError("batches: none given, expected iterables of batches by task.")
    found = groups_of({name: batches[name] for name in names}, groups, seed)
    of_aims = Groups(found.count, None)
    if target_groups is not None:
        of_aims = groups_of({name: (targets or {})[name] for name in aims}, target_groups, seed)
    taker = Taker(
        blocks, names, aims, max(found.count, of_aims.count), optimizer=optimizer, loss_weights=loss_weights,
        seed=seed, limit_bytes=limit_bytes,
    )  # fmt: skip
    with unchanged(model) as put_back:

        def take_all(name: str, of: Iterable[Drawn], places: Iterator[int], *, held_out: bool) -> None:
            count = 0
            for count, batch in enumerate(of, 1):
                group = next(places, None)
                if group is None:
                    raise OrthoLoraError(
                        f"groups: {count - 1} given for task {name!r}, which has more batches: expected as many."
                    )
                taker.take(name, group, loss_of(name, batch), held_out=held_out)
                put_back()
            if not count:
                raise OrthoLoraError(
                    f"batches of task {name!r}: none came: an iterator is used up once it was gone through."
                )
            taker.settle()

        for name in names:
            take_all(name, batches[name], found.of_task(name), held_out=False)
        if targets:
            model.eval()
            for name in aims:
                take_all(name, targets[name], of_aims.of_task(name), held_out=True)
    taker.reduce()
    return taker.look()


def snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """After which steps of a training its snapshots are taken: in the middle of as many equal stretches.

    None at its end, where the learning rate has mostly gone to 0 and gradients with it: for that there are probes.
    """
    return sorted({math.ceil(steps * (2 * place + 1) / (2 * snapshots)) for place in range(snapshots)})


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Leave all that a pass changes beside parameters as it was: `.grad`, buffers, modes, and states of chance.

    What it yields puts buffers back, for each batch to meet the same: running means, as of batch normalisation, follow
    the batches.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # DistributedDataParallel may write into the bucket that a gradient is a view of.
    gradients = [of.clone() if (of := parameter.grad) is not None and of._is_view() else of for parameter in trained]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    devices = list({parameter.device for parameter in trained if parameter.device.type == "cuda"})
    states = random.getstate(), np.random.get_state()  # the loop's own

    def put_back() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

    for parameter in trained:
        parameter.grad = None
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(getattr(model, "no_sync", nullcontext)())  # sums are added up once, at the end
        try:
            yield put_back
        finally:
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            put_back()
            for module, training in modes:
                module.training = training
            random.setstate(states[0])
            np.random.set_state(states[1])


def _in_order(what: str, given: Mapping[str, object], tasks: Sequence[str]) -> list[str]:
    if not isinstance(given, Mapping):
        raise OrthoLoraError(f"{what}: {type(given).__name__} given, expected iterables of batches by task.")
    for name in given:
        if name not in tasks:
            raise OrthoLoraError(f"{what}: task {name!r}: expected one of {', '.join(tasks)}.")
    return [task for task in tasks if task in given]
