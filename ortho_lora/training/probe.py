"""Measure how the tasks' gradients agree at fixed parameters, over as many batches as it takes, without training."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.life import log_to, new_run_id, stop_on_signal
from ortho_lora.record.admission import check_free
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import BRANCHES, ProbeInfo, State, Status, read_run
from ortho_lora.surgery.blocks import Block
from ortho_lora.surgery.gram import cosines
from ortho_lora.surgery.measure import Measured, record_gradients, record_step
from ortho_lora.surgery.nonfinite import nonfinite, sentence
from ortho_lora.surgery.projection import check_rule
from ortho_lora.training.batches import TaskSampler, seed_of
from ortho_lora.training.checkpoint import check_exists
from ortho_lora.training.config import Config, load_config
from ortho_lora.training.identity import identity
from ortho_lora.training.precision import LOOK_EVERY, Floats, Goal, Row, conclude
from ortho_lora.training.session import Training, tasks_of

log = logging.getLogger(__name__)

MEASURING = frozenset({"batch_size", "device", "flush_rows", "flush_seconds", "gradient_mode", "precision", "threads"})
"""Settings in which a probe may differ from the run that it probes: how it is measured, not what."""


def probe(
    config: Config,
    runs_dir: Path,
    run_id: str | None = None,
    *,
    of: Path | None = None,
    goal: Goal = Goal(),  # noqa: B008  # frozen
    seed: int | None = None,
    command: Sequence[str] = (),
    report: Callable[[Status], None] = lambda status: None,
) -> Path:
    """Measure the gradients of many batches at fixed parameters, and leave the record of it under `runs_dir`.

    A batch of every task is a step of the record, measured as `train` measures it, with dropout as in training and the
    method applied to it, but no parameter and no buffer of the model changes. Every batch's gradients are recorded,
    whatever `record_every` says. The batches are not those that training draws.

    Args:
        config: all settings; where a run is probed, those of `config_of`.
        runs_dir: directory of the runs; made where missing.
        run_id: name of the probe; by default the time (UTC) and `probe`.
        of: directory of the run to probe at its last checkpoint, which is only read, also while it trains; None: the
            parameters that training would start from. There B = 0, so every gradient of A is zero and only B measured.
        goal: how many batches, or how narrow the intervals; looked at as `precision` says.
        seed: of the batches, of dropout and of the order of projection; by default that of the configuration.
        command: what the user typed, for the record.
        report: called with the probe's status whenever it changes.

    Returns:
        The probe's directory.

    Raises:
        OrthoLoraError: bad input, tasks that share no adapter, or a loss or gradient that is not finite.
    """
    _refuse_what_cannot_meet(config)
    run_id = check_free(runs_dir, run_id or new_run_id(runs_dir, "probe"))
    with stop_on_signal() as stop:
        recorder = Recorder(
            runs_dir / run_id,
            total=goal.expected([]),
            flush_rows=config.flush_rows,
            flush_seconds=config.flush_seconds,
        )
        check_rule(config.effective.rule)
        training = Training(config, tasks_of(config), report, stop)
        seed = config.seed if seed is None else seed
        place = ProbeInfo(seed=seed)
        if of is not None:
            training.restore(of)
            place = ProbeInfo(run=read_run(of).run_id, step=training.place.step, seed=seed)
        _draw_from(training, seed_of(seed, "probe"))
        recorder.begin(
            identity(
                config,
                training.tasks,
                [{} for _ in training.tasks],  # nothing is evaluated
                training.groups[0].surgeon.blocks,
                run_id=run_id,
                gradient_mode=training.mode,
                command=command,
                probe=place,
            )
        )
        with recorder, log_to(recorder.run_dir / "log.txt"):
            log.info("probe %s on %s, %s gradients", place.where, training.device, training.mode)
            try:
                _take_batches(training, recorder, goal, report, stop)
            except BaseException as error:
                log.error("the probe failed: %s", error, exc_info=not isinstance(error, OrthoLoraError))
                raise
    return recorder.run_dir


def config_of(run_dir: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """The settings to probe a run with: its own, but for some in how it is measured.

    Raises:
        OrthoLoraError: not a run, it has no checkpoint, or a change that is none of `MEASURING`.
    """
    info = read_run(run_dir)
    if info.probe is not None:
        raise OrthoLoraError(f"{run_dir}: it is a probe itself, {info.probe.where}: ask for more --batches there.")
    check_exists(run_dir, "to probe")
    if refused := sorted(set(changes or {}) - MEASURING):
        raise OrthoLoraError(
            f"{refused[0]}: a run is probed with its own settings; only {', '.join(sorted(MEASURING))} may be set. For"
            " other rules and scopes on the same gradients there is `python -m analysis replay`."
        )
    return load_config(overrides=info.config | dict(changes or {}))


def _refuse_what_cannot_meet(config: Config) -> None:
    if config.method == "single":
        raise OrthoLoraError(
            "method 'single' gives each task an adapter of its own, where no gradients meet: probe a run of another"
            " method, or the start of another method with --config and --method."
        )
    if len(config.tasks) < 2:
        raise OrthoLoraError(f"tasks: only {config.tasks[0].name} given, expected at least two to compare.")


def _draw_from(training: Training, seed: int) -> None:
    """Let everything random start from a seed."""
    training.sampler = TaskSampler(training.tasks, training.config.batch_size, seed)
    torch.manual_seed(seed_of(seed, "dropout"))
    for group in training.groups:
        group.surgeon.generator.manual_seed(seed_of(seed, "order"))


def _take_batches(
    training: Training,
    recorder: Recorder,
    goal: Goal,
    report: Callable[[Status], None],
    stop: threading.Event,
) -> None:
    surgeon = training.groups[0].surgeon
    at = surgeon.step
    # Running means, as of batch normalisation, follow the batches when a model is set to train.
    buffers = [(buffer, buffer.clone()) for buffer in training.model.buffers()]
    found: list[Floats] = []
    losses: dict[str, float] = {}
    spent = 0.0
    while len(found) < goal.batches and not goal.is_reached(found) and not stop.is_set():
        started = time.perf_counter()
        surgeon.step = at  # it goes nowhere: at step 0, that A has no gradient is no cause for alarm
        (measured,) = training.measure(training.sampler.next())
        for buffer, value in buffers:
            buffer.copy_(value)
        seconds = time.perf_counter() - started
        spent += seconds
        if problems := nonfinite(surgeon.tasks, measured):
            raise OrthoLoraError(
                f"{sentence(problems, f'in batch {len(found)}')}:"
                " no parameters changed, so it comes with these: probe another run, or try precision=fp32."
            )
        record_step(recorder, len(found), surgeon.tasks, measured, learning_rate=np.nan, seconds=seconds)
        record_gradients(recorder, len(found), surgeon.recording.layout, measured)
        recorder.flush_if_due()
        found.append(branch_cosines(surgeon.blocks, measured))
        losses = dict(zip(surgeon.tasks, measured.losses.tolist(), strict=True))
        if len(found) % LOOK_EVERY == 0:
            recorder.total = goal.expected(found)
        eta = (recorder.total - len(found)) * spent / len(found) if recorder.total else None
        report(recorder.progress(len(found), losses, eta, phase="probing"))
    recorder.flush()
    pairs = [(one, other) for i, one in enumerate(surgeon.tasks) for other in surgeon.tasks[i + 1 :]]
    message = conclude(found, [Row(branch, *pair) for branch in BRANCHES for pair in pairs], goal)
    log.info("%s", message)
    complete = len(found) == goal.batches or goal.is_reached(found)
    state: State = "finished" if complete else "stopped"
    report(recorder.status(state, step=len(found), phase="done", losses=losses, message=message))


def branch_cosines(blocks: Sequence[Block], measured: Measured) -> Floats:
    """The mean cosine of each pair over the blocks of each branch, `[branches * pairs]`; NaN where none has any."""
    count = measured.gram.shape[-1]
    i, j = torch.triu_indices(count, count, 1)
    of_pairs = cosines(measured.gram)[:, i, j]  # [N, pairs]
    rows = [[block.branch == branch for block in blocks] for branch in BRANCHES]
    return torch.cat([of_pairs[torch.tensor(chosen)].nanmean(0) for chosen in rows]).numpy()
