"""Sums of gradients over groups of texts, block by block, in float32 where the parameters are; then their products.

Sums of m groups, T tasks and some held-out targets are kept as they are while they fit. Of blocks that are too large
two things are kept, drawn once from a seed for all groups and tasks: a count sketch of the sums, each coordinate added
to one of w sums with a random sign, whose products are those of the gradients without bias and with variance 1 / w; and
the sums at w coordinates chosen at random, because AdamW's metric is only known at the end. Both take the same share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.vectors import Vectors, coordinates
from ortho_lora.surgery.adamw import Metric, Moments
from ortho_lora.surgery.distributed import world_size
from ortho_lora.surgery.measure import to_cpu

BYTES = 2**30
"""That sums may take, by default."""
_FLOAT, _INDEX = 4, 8
_LEAST_WIDTH = 64
_MEANS_BYTES = 32 * 2**20  # of group means that are multiplied at a time


@dataclass(frozen=True)
class Extent:
    """How much there is to sum."""

    groups: int  # m
    tasks: int  # T
    targets: int

    @property
    def columns(self) -> int:
        """C: tasks, then targets."""
        return self.tasks + self.targets

    def exact_bytes(self, size: int) -> int:
        """Of a block's sums, kept as they are."""
        return _FLOAT * size * (self.groups * self.columns + self.tasks)

    def sketch_bytes(self, size: int, width: int) -> int:
        """Of a block's sketch and chosen coordinates, and of where its coordinates go."""
        return width * (_FLOAT * (2 * self.groups * self.columns + self.tasks) + _INDEX) + _FLOAT * size


class BlockSums:
    """Sums of one block's gradients, [m, C, w]: of a sketch, and at chosen coordinates; the same where all are kept."""

    def __init__(self, parameter: nn.Parameter, extent: Extent, width: int | None, generator: torch.Generator) -> None:
        """Begin with zero; `width`: of sketch and choice, None: all is kept."""
        size, device = parameter.numel(), parameter.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float32, device=device)

        self.coordinates: Tensor | None = None  # int64 [w]
        self._place: Tensor | None = (
            None  # int32 [size]: of each coordinate in the sketch, w more where it is taken off
        )
        kept = size
        if width is not None:
            kept = width
            self._place = torch.randint(2 * width, (size,), generator=generator, dtype=torch.int32).to(device)
            self.coordinates = torch.randperm(size, generator=generator)[:width].sort().values.to(device)
        self.share = size / kept  # of the coordinates, each chosen one stands for so many
        self.chosen = zeros(extent.groups, extent.columns, kept)
        self.sketch = self.chosen if width is None else zeros(extent.groups, extent.columns, kept)
        self.squares = zeros(extent.tasks, kept)  # of batches' gradients, at the chosen coordinates

    def add(self, column: int, group: int, gradient: Tensor) -> None:
        """Add a batch's gradient, of the parameter's shape."""
        flat = gradient.detach().reshape(-1).float()
        at = flat if self.coordinates is None else flat[self.coordinates]
        self.chosen[group, column].add_(at)
        if column < len(self.squares):
            self.squares[column].addcmul_(at, at)
        if self._place is not None:
            width = self.sketch.shape[-1]
            both = torch.zeros(2 * width, dtype=torch.float32, device=flat.device).index_add_(0, self._place, flat)
            self.sketch[group, column].add_(both[:width]).sub_(both[width:])

    @property
    def tensors(self) -> list[Tensor]:
        """All that is summed."""
        return [self.chosen, self.squares, *([] if self._place is None else [self.sketch])]

    def moments(self, batches: Tensor) -> Moments:
        """Of the tasks' batch gradients at the chosen coordinates; `batches`: of each task, [T]."""
        number = batches.to(self.squares)[:, None]
        return Moments(self.chosen[:, : len(self.squares)].sum(0) / number, self.squares / number, number)


class Sums:
    """Sums of all blocks, and how many batches are in them."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], extent: Extent, *, seed: int = 0, limit_bytes: int = BYTES
    ) -> None:
        """Begin with zero.

        Raises:
            OrthoLoraError: not even narrow sketches fit.
        """
        self.parameters, self.extent, self.seed = parameters, extent, seed
        sizes = [parameter.numel() for parameter in parameters]
        self.widths = widths(sizes, extent, limit_bytes)
        generator = torch.Generator().manual_seed(seed)
        self.blocks = [
            BlockSums(parameter, extent, width, generator)
            for parameter, width in zip(parameters, self.widths, strict=True)
        ]
        self.batches = torch.zeros(extent.groups, extent.columns)  # on the CPU
        self.losses = torch.zeros(extent.columns)  # of the batches; on the CPU

    @property
    def exact(self) -> bool:
        """Whether all is kept as it is."""
        return all(width is None for width in self.widths)

    def reduce(self) -> None:
        """Add up what all processes have."""
        if world_size() == 1:
            return
        for block in self.blocks:
            for tensor in block.tensors:
                distributed.all_reduce(tensor)
        for name in ("batches", "losses"):
            whole = getattr(self, name).to(self.blocks[0].chosen.device)
            distributed.all_reduce(whole)
            setattr(self, name, whole.cpu())

    @torch.no_grad()
    def vectors(self, metric: Metric, tasks: Sequence[str], targets: Sequence[str]) -> Vectors:
        """The gradients at coordinates chosen at random of all blocks, for the record."""
        extent, of_task = self.extent, self.batches[:, : self.extent.tasks].sum(0)
        groups = [group for group, any_batch in enumerate((self.batches > 0).any(1).tolist()) if any_batch]
        sizes = [parameter.numel() for parameter in self.parameters]
        share = min(1.0, coordinates(extent.groups * extent.columns) / sum(sizes))
        generator = torch.Generator().manual_seed(self.seed)
        batches = self.batches[groups, :, None]
        means, deviations, rates, eps, past = [], [], [], [], []
        for index, (block, size) in enumerate(zip(self.blocks, sizes, strict=True)):
            kept = block.chosen.shape[-1]
            some = torch.randperm(kept, generator=generator)[: max(1, round(share * size))].sort().values
            at = some.to(block.chosen.device)
            means.append(block.chosen[..., at][groups] / batches.to(block.chosen))  # nan where there is no batch
            moments = block.moments(of_task)
            deviations.append(moments.variance[:, at].sqrt())
            rate, added = metric.step(index)
            rates.append(torch.full((len(some),), rate * size / len(some)))
            eps.append(torch.full((len(some),), added))
            past.append(metric.past(index, block.coordinates, moments)[at])
        found = [
            torch.cat([one.float().cpu() for one in of], dim=-1).numpy() for of in (means, deviations, rates, eps, past)
        ]
        return Vectors(
            tasks=tuple(tasks),
            targets=tuple(targets),
            means=found[0][:, : extent.tasks],
            held_out=found[0][:, extent.tasks :],
            deviation=found[1],
            batches=of_task.numpy().astype(np.int64),
            rate=found[2],
            eps=found[3],
            past=found[4],
        )

    @torch.no_grad()
    def products(self, metric: Metric | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of group means, as `record.products.across_groups` takes them, [m, N, C, C] each, in float64 on the CPU.

        Args:
            metric: by which coordinates are scaled; None: by nothing.
        """
        of_task = self.batches[:, : self.extent.tasks].sum(0)
        found, scales = [], []
        for index, block in enumerate(self.blocks):
            if metric is None:
                of_block, scale = _products(block.sketch, self.batches, None)
            else:
                root = metric.root(index, block.coordinates, block.moments(of_task))
                of_block, scale = _products(block.chosen, self.batches, root)
                scale = scale * block.share
            found.append(of_block)
            scales.append(scale)
        *matrices, factors = to_cpu([*found, torch.stack([scale.to(scales[0].device) for scale in scales])])
        stacked = torch.stack(matrices, dim=2).mul_(factors[:, None, None])  # [3, m, N, C, C]
        return stacked[0], stacked[1], stacked[2]


def widths(sizes: Sequence[int], extent: Extent, limit_bytes: int) -> list[int | None]:
    """How wide a sketch of each block is, one width for all; None: the block is kept as it is.

    Raises:
        OrthoLoraError: not even narrow ones fit.
    """

    def total(width: int) -> int:
        return sum(min(extent.exact_bytes(size), extent.sketch_bytes(size, width)) for size in sizes)

    if sum(map(extent.exact_bytes, sizes)) <= limit_bytes:
        return [None] * len(sizes)
    if total(_LEAST_WIDTH) > limit_bytes:
        raise OrthoLoraError(
            f"snapshot: limit_bytes={limit_bytes} given, and {sum(sizes)} parameters of {extent.columns} tasks and"
            f" targets in {extent.groups} groups take {total(_LEAST_WIDTH)} at least: raise it, or take fewer groups."
        )
    low, high = _LEAST_WIDTH, max(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= limit_bytes else (low, middle)
    return [None if extent.exact_bytes(size) <= extent.sketch_bytes(size, low) else low for size in sizes]


def _products(sums: Tensor, batches: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
    """<G_i^k, sum_l G_j^l>, <sum_l G_i^l, G_j^k>, <G_i^k, G_j^k>, [3, m, C, C], but for a factor, which comes second.

    Args:
        sums: [m, C, w].
        batches: in each, [m, C].
        root: that coordinates are scaled by, [w].
    """
    low, high = torch.aminmax(sums)
    largest = torch.maximum(high, -low)  # neither tiny gradients vanish in their products nor do large ones overflow
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    weights = (1 / batches.clamp(min=1)).to(sums) / largest  # sums are zero where there is no batch

    def means() -> Iterator[Tensor]:
        """Of some groups at a time, [groups, C, w]: of all where that takes little memory beside the sums."""
        together = max(1, _MEANS_BYTES // (_FLOAT * sums[0].numel()))
        for some, of_some in zip(sums.split(together), weights.split(together), strict=True):
            scaled = some * of_some[..., None]
            yield scaled if root is None else scaled.mul_(root)

    total = sum((some.sum(0) for some in means()), start=torch.zeros_like(sums[0]))
    found = []
    with torch.autocast(sums.device.type, enabled=False):
        for some in means():
            cross, same = some @ total.mT, some @ some.mT
            found.append(torch.stack([cross, cross.mT, same]))
    return torch.cat(found, dim=1), largest.double().square() if sums.device.type != "mps" else largest.square()
