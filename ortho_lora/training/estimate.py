"""How long a run would take, from a few of its steps. Importable without torch."""

import statistics
import threading
import time
from typing import TYPE_CHECKING

import psutil
from pydantic import BaseModel, ConfigDict

from ortho_lora.training.config import Config

if TYPE_CHECKING:
    from ortho_lora.training.session import Training

MOST_STEPS = 10
FEWEST_STEPS = 2
SECONDS = 10.0
"""Steps are timed, after one that warms up, until there are so many or so much time has gone by."""


class Estimate(BaseModel):
    """What the parts of a run take, in seconds."""

    model_config = ConfigDict(frozen=True)

    loading: float  # of program, data and model
    step: float
    evaluation: float  # of all tasks, once

    def total(self, config: Config) -> float:
        """Seconds of a run; a batch of a snapshot, of held-out texts too, is taken to cost as much as a step.

        The passes over single texts that end a snapshot are left out: 32 of each of three tasks took as long as five
        steps of 16 texts (MiniLM).
        """
        evaluations = len({*range(0, config.steps, config.eval_every), config.steps})
        held_out = config.snapshot_batches if config.snapshot_held_out is None else config.snapshot_held_out
        steps = config.steps + config.snapshots_taken * (config.snapshot_batches + held_out)
        return self.loading + steps * self.step + evaluations * self.evaluation


def estimate(config: Config) -> Estimate:
    """Time steps of the training that `config` describes, and a batch of each evaluation; nothing is recorded.

    Raises:
        OrthoLoraError: as `ortho_lora.training.train.train`.
    """
    # Here, so that whoever only reads an `Estimate` does without torch.
    from ortho_lora.surgery.projection import check_rule
    from ortho_lora.training.session import Training, tasks_of

    check_rule(config.effective.rule)
    training = Training(config, tasks_of(config), lambda status: None, threading.Event())
    loading = time.time() - psutil.Process().create_time()
    _step_seconds(training)
    seconds: list[float] = []
    while len(seconds) < FEWEST_STEPS or (len(seconds) < MOST_STEPS and sum(seconds) < SECONDS):
        seconds.append(_step_seconds(training))
    return Estimate(loading=loading, step=statistics.mean(seconds), evaluation=_evaluation_seconds(training))


def _step_seconds(training: "Training") -> float:
    started = time.perf_counter()
    training.measure(training.sampler.next())
    training.optimizer.step()
    return time.perf_counter() - started


def _evaluation_seconds(training: "Training") -> float:
    from ortho_lora.tasks.data import take
    from ortho_lora.training.adapters import in_turn
    from ortho_lora.training.evaluation import encode

    config, total = training.config, 0.0
    training.model.eval()
    for group in in_turn(training.encoder, training.groups):
        # A twin is evaluated on what its original's texts were encoded to.
        sources = {training.tasks[task].twin_of or training.tasks[task].name: task for task in group.tasks}
        for split in (split for task in sources.values() for split in training.subsets[task].values()):
            # Texts are evaluated in order of length: a batch of middling ones stands for all.
            by_length = sorted(range(len(split)), key=lambda index: len(split.texts[index]))
            size = min(config.eval_batch_size, len(split))
            middle = (len(split) - size) // 2
            started = time.perf_counter()
            encode(
                training.model,
                take(split, by_length[middle : middle + size]),
                training.tokenizer,
                max_length=config.max_length,
                batch_size=size,
                device=training.device,
            )
            total += (time.perf_counter() - started) * len(split) / size
    return total
