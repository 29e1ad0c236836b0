"""What a lookahead is to take, and what its draws tell; importable without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.draws import PARTS, told_of
from ortho_lora.record.judge import LEVEL


@dataclass(frozen=True)
class Plan:
    """How much to look at."""

    steps: int = 3  # of the optimizer, in each draw
    draws: int = 4

    def __post_init__(self) -> None:
        """Raise OrthoLoraError where it is nothing."""
        for name, value in vars(self).items():
            if value < 1:
                raise OrthoLoraError(f"{name}: {value} given, expected at least 1.")


WIDER = 4
"""Batches, by those of the run, unless told: as many texts in fewer steps tell more (docs/transfer.md)."""
RELIABLE = 0.8
"""Below it, more is advised to be taken; a convention."""


class Effect(NamedTuple):
    """What a source does to a target in so many steps."""

    source: str | None  # None: what all of them do, against no step
    target: str
    part: str  # one of PARTS
    nats: float
    low: float | None  # of the 95% interval; None: of one draw there is none
    high: float | None
    q: float | None  # p of its being 0, adjusted for the number of ordered pairs; None also of what is no pair

    @property
    def sure(self) -> bool:
        """Whether its sign is; of the effects that are at most 5% are so by chance."""
        return self.q is not None and self.q <= LEVEL

    @property
    def interval(self) -> str:
        """Like `-0.0031 to +0.0012`."""
        return "–" if self.low is None else f"{self.low:+.4f} to {self.high:+.4f}"


@dataclass(frozen=True)
class Found:
    """What a lookahead found."""

    run_dir: Path  # of the lookahead
    step: int  # optimizer steps that the parameters had taken
    steps: int  # in each draw
    draws: int  # that are complete
    effects: tuple[Effect, ...]
    reliability: dict[str, float | None]  # by part, over pairs of different tasks; None: not known
    ceiling: dict[str, float | None]  # as of `record.draws`, by part

    def document(self) -> dict[str, Any]:
        """Ready for JSON; None: not known."""
        return {
            "lookahead": str(self.run_dir),
            "step": self.step,
            "steps": self.steps,
            "draws": self.draws,
            "reliability": self.reliability,
            "ceiling": self.ceiling,
            "effects": [effect._asdict() for effect in self.effects],
        }


def found_of(run_dir: Path, step: int, plan: Plan, draws: Sequence[Sequence[Mapping[str, Any]]]) -> Found:
    """From the rows of each draw, all in one order."""
    if not draws:
        return Found(run_dir, step, plan.steps, 0, (), dict.fromkeys(PARTS), dict.fromkeys(PARTS))
    keys = [(row["source"], row["target"], row["part"]) for row in draws[0]]
    values, errors = (np.array([[row[name] for row in rows] for rows in draws]) for name in ("value", "error"))
    told = told_of(values, errors, keys)
    columns = (map(_known, column) for column in (told.nats, told.low, told.high, told.q))
    effects = tuple(Effect(*key, *known) for key, *known in zip(keys, *columns, strict=True))
    parts = {part: at for at, (_, _, part) in enumerate(keys)}  # all rows of a part say the same
    reliable, highest = (
        {part: _known(of[at]) for part, at in parts.items()} for of in (told.reliability, told.ceiling)
    )
    return Found(run_dir, step, plan.steps, len(draws), effects, reliable, highest)


def conclude(found: Found) -> str:
    """What was taken, how many effects are told, and how well draws agree."""
    if not found.draws:
        return "Stopped before a draw was complete."
    said = f"{found.draws} draw{'s' * (found.draws > 1)} of {found.steps} step{'s' * (found.steps > 1)}"
    said += ", with and without each task"
    if found.draws == 1:
        return f"{said}: one draw has no interval, take more --draws."
    pairs = [effect for effect in found.effects if effect.q is not None]
    told = []
    for part in PARTS:
        sure = sum(effect.part == part and effect.sure for effect in pairs)
        reliable = found.reliability[part]
        told.append(f"{part} {sure}" + (f", reliability {reliable:.2f}" if reliable is not None else ""))
    said += f": of {len(pairs) // len(PARTS)} ordered pairs these are sure: {'; '.join(told)}."
    agreement = found.reliability["difference"]
    if agreement is not None and agreement < RELIABLE:
        said += " To have draws agree better, take fewer --steps of a larger --batch-size, or more --draws."
    return said


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
