"""Train one adapter on several tasks, and record how their gradients agree before and after projection."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ortho_lora.launching.life import log_to, new_run_id, stop_on_signal
from ortho_lora.record.admission import check_free
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import Status
from ortho_lora.surgery.projection import check_rule
from ortho_lora.training.config import Config
from ortho_lora.training.identity import identity
from ortho_lora.training.session import Training, tasks_of


def train(
    config: Config,
    runs_dir: Path,
    run_id: str | None = None,
    *,
    command: Sequence[str] = (),
    report: Callable[[Status], None] = lambda status: None,
) -> Path:
    """Train as `config` says, and leave the record of the run under `runs_dir`.

    Args:
        config: all settings.
        runs_dir: directory of the runs; made where missing.
        run_id: name of the run; by default the time (UTC) and the method.
        command: what the user typed, for the record.
        report: called with the run's status whenever it changes.

    Returns:
        The run's directory.

    Raises:
        OrthoLoraError: bad input, or a loss or gradient that is not finite.
    """
    config.require_extras()
    run_id = check_free(runs_dir, run_id or new_run_id(runs_dir, config.label))
    with stop_on_signal() as stop:
        recorder = Recorder(
            runs_dir / run_id,
            total=config.steps,
            flush_rows=config.flush_rows,
            flush_seconds=config.flush_seconds,
        )
        check_rule(config.effective.rule)
        tasks = tasks_of(config)
        training = Training(config, tasks, report, stop)
        # Begun when all that may be refused was accepted: a failed start leaves no directory.
        recorder.begin(
            identity(
                config,
                training.tasks,
                training.subsets,
                training.groups[0].surgeon.blocks,
                run_id=run_id,
                gradient_mode=training.mode,
                command=command,
            )
        )
        with recorder, log_to(recorder.run_dir / "log.txt"):
            training.run(recorder)
    return recorder.run_dir
