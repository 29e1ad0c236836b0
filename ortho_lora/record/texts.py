"""What a step for each task does to single held-out texts, so that a number can be read. Importable without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ortho_lora.record.tables import SCHEMAS

LONGEST = 400
"""Characters of a text that are recorded."""


@dataclass(frozen=True, eq=False)
class Texts:
    """E held-out texts of one target, and T tasks' steps."""

    target: str
    tasks: tuple[str, ...]
    places: Sequence[int]  # of the texts in the target's validation split, [E]
    texts: Sequence[str]  # [E]
    labels: Sequence[str]  # [E]
    losses: NDArray[np.float64]  # of each, nats, [E]
    nats: NDArray[np.float64]  # that the mean gradient of each task alone moves it by in a step, to first order, [E, T]

    def table(self, step: int) -> pa.Table:
        """Its rows of the table `texts`, text by text."""
        size = len(self.tasks)
        columns = {
            "step": [step] * self.nats.size,
            "source": list(self.tasks) * len(self.texts),
            "target": [self.target] * self.nats.size,
            "example": np.repeat(self.places, size),
            "text": np.repeat(np.array([shortened(text) for text in self.texts], object), size),
            "label": np.repeat(np.array(self.labels, object), size),
            "loss": np.repeat(self.losses, size),
            "nats": self.nats.ravel(),
        }
        schema = SCHEMAS["texts"]
        return pa.table(columns).select(schema.names).cast(schema)


def shortened(text: str) -> str:
    """Of a long one the beginning."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rstrip()}…"
