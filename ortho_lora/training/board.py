"""What TensorBoard shows of a run while it trains: the scalars of its surgeons, and what evaluations find."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes into the directory `tensorboard` of a run."""

    def __init__(self, run_dir: Path, step: int) -> None:
        """Begin after so many steps; what another process wrote of later ones is shown no more."""
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars after so many steps."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def add_metrics(self, step: int, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Metrics of an evaluation, by split, task and name, as `validation/trec/accuracy`."""
        for split, tasks in metrics.items():
            for task, found in tasks.items():
                self.add(step, {f"{split}/{task}/{name}": value for name, value in found.items()})
        self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
