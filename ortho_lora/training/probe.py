"""Take a snapshot of how the tasks' gradients agree, where a run is or where one would start, without training."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.life import log_to, new_run_id, stop_on_signal
from ortho_lora.record.admission import check_free
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo, State, Status, read_run
from ortho_lora.record.snapshots import MetricName, Snapshot, metric_of
from ortho_lora.surgery.projection import check_rule
from ortho_lora.training.checkpoint import check_exists
from ortho_lora.training.config import Config, load_config
from ortho_lora.training.identity import identity
from ortho_lora.training.precision import Goal, Pair, conclude, pairs_of
from ortho_lora.training.session import Training, tasks_of
from ortho_lora.training.snapshots import rounds

log = logging.getLogger(__name__)

MEASURING = frozenset({"batch_size", "device", "precision", "threads"})
"""Settings in which a probe may differ from the run that it probes: how it is measured, not what."""


@dataclass(frozen=True)
class Probed:
    """What a probe found."""

    run_dir: Path  # of the probe
    step: int  # optimizer steps that the parameters had taken
    batches: int  # of every task
    metric: MetricName
    pairs: tuple[Pair, ...]  # over the whole model; empty where it was stopped before every task had a batch

    def document(self) -> dict[str, Any]:
        """Ready for JSON; None: not known."""
        return {
            "probe": str(self.run_dir),
            "step": self.step,
            "batches": self.batches,
            "metric": self.metric,
            "pairs": [pair._asdict() for pair in self.pairs],
        }


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
) -> Probed:
    """Take one snapshot, and leave the record of it under `runs_dir`.

    It is the one that a training takes there (`snapshots`) with as many batches and the same seed: with dropout as in
    training, of held-out texts without. No parameter and no buffer of the model changes.

    Args:
        config: all settings; where a run is probed, those of `config_of`.
        runs_dir: directory of the runs; made where missing.
        run_id: name of the probe; by default the time (UTC) and `probe`.
        of: directory of the run to probe at its last checkpoint, which is only read, also while it trains; None: the
            parameters that training would start from. There B = 0, so every gradient of A is zero and only B measured.
        goal: how many batches, or how narrow the intervals.
        seed: of the groups of texts, of the batches and of dropout; by default that of the configuration.
        command: what the user typed, for the record.
        report: called with the probe's status whenever it changes.

    Raises:
        OrthoLoraError: bad input, tasks that share no adapter, or a loss or gradient that is not finite.
    """
    _refuse_what_cannot_meet(config)
    run_id = check_free(runs_dir, run_id or new_run_id(runs_dir, "probe"))
    with stop_on_signal() as stop:
        recorder = Recorder(runs_dir / run_id)
        check_rule(config.effective.rule)
        training = Training(config, tasks_of(config), report, stop)
        place = ProbeInfo(seed=config.seed if seed is None else seed)
        if of is not None:
            training.restore(of)
            place = place.model_copy(update={"run": read_run(of).run_id, "step": training.place.step})
        recorder.begin(
            identity(
                config,
                training.tasks,
                [{} for _ in training.tasks],  # nothing is evaluated
                training.groups[0].surgeon.blocks,
                run_id=run_id,
                gradient_mode="sequential",
                command=command,
                probe=place,
            )
        )
        with recorder, log_to(recorder.run_dir / "log.txt"):
            log.info("probe %s on %s", place.where, training.device)
            metric = metric_of(config.optimizer)
            try:
                found, state = _take(training, recorder, goal, metric, place.seed, report)
            except BaseException as error:
                log.error("the probe failed: %s", error, exc_info=not isinstance(error, OrthoLoraError))
                raise
            if found is not None:
                recorder.add_snapshot(place.step, found)
            batches = 0 if found is None else int(found.batches.min())
            pairs = () if found is None else pairs_of(found, metric)
            message = conclude(found, metric, goal) if found is not None else "Stopped before every task had a batch."
            log.info("%s", message)
            report(recorder.status(state, step=batches, phase="done", losses=training.losses, message=message))
    return Probed(recorder.run_dir, place.step, batches, metric, pairs)


def config_of(run_dir: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """The settings to probe a run with: its own, but for some in how it is measured.

    Raises:
        OrthoLoraError: not a run, it has no checkpoint, or a change that is none of `MEASURING`.
    """
    info = read_run(run_dir)
    if info.probe is not None:
        if info.probe.steps:
            raise OrthoLoraError(f"{run_dir}: it is no run but a {info.probe.what}: probe a run.")
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
    if config.groups:
        raise OrthoLoraError(
            f"groups: the tasks share {len(config.groups)} adapters, and a probe compares the gradients of one: probe a"
            " run without groups, or the start of one with --config."
        )
    if len(config.tasks) < 2:
        raise OrthoLoraError(f"tasks: only {config.tasks[0].name} given, expected at least two to compare.")


def _take(
    training: Training, recorder: Recorder, goal: Goal, metric: MetricName, seed: int, report: Callable[[Status], None]
) -> tuple[Snapshot | None, State]:
    """Take rounds of batches until the goal is met or somebody stops it; None: not every task has a batch."""
    started = time.perf_counter()
    recorder.total = goal.expected(None, metric)
    with training.taking(seed) as taking:
        taker = taking.taker

        def ended(found: Snapshot) -> tuple[Snapshot, State]:
            def sign() -> None:
                report(recorder.progress(taker.taken, training.losses, phase="reading texts"))

            whole = training.with_texts(found, taking, seed, sign)
            return (found, "stopped") if whole is None else (whole, "finished")

        batches = rounds(training.tasks, goal.batches, training.config.batch_size, seed=seed, step=training.place.step)
        for turns in batches:
            for turn in turns:
                if training.stop.is_set():
                    return taker.look() if taker.taken else None, "stopped"
                taking.take(turn)
                done, spent = taker.taken, time.perf_counter() - started
                eta = (recorder.total - done) * spent / done if recorder.total and done else None
                report(recorder.progress(done, training.losses, eta, phase="probing"))
            training.losses = dict(zip(taker.tasks, taker.settle(), strict=False))  # a round begins with theirs
            if goal.is_due(taker.taken):
                found = taker.look()
                recorder.total = goal.expected(found, metric)
                if goal.is_reached(found, metric):
                    return ended(found)
        return ended(taker.look())
