"""Go on with a run that was interrupted."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.launching.life import log_to, stop_on_signal
from ortho_lora.record.admission import lock_run
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import Status, read_run, read_status
from ortho_lora.record.tables import TABLES
from ortho_lora.record.versions import versions
from ortho_lora.surgery.projection import check_rule
from ortho_lora.training.checkpoint import check_exists
from ortho_lora.training.config import load_config
from ortho_lora.training.session import Training, tasks_of

log = logging.getLogger(__name__)


def resume(run_dir: Path, *, report: Callable[[Status], None] = lambda status: None) -> Path:
    """Go on with an interrupted run from its last checkpoint, as if nothing had happened.

    What it recorded after the checkpoint is dropped and recorded again.

    Args:
        run_dir: directory of the run.
        report: called with the run's status whenever it changes.

    Returns:
        The run's directory.

    Raises:
        OrthoLoraError: the run is finished, still trains, or is a probe or lookahead, has no checkpoint, or its data
            have changed; or as `train`.
    """
    info = read_run(run_dir)
    if info.probe is not None:
        kind, anew = ("lookahead", "look ahead anew") if info.probe.steps else ("probe", "probe anew")
        raise OrthoLoraError(f"{run_dir}: a {kind} is not gone on with: {anew} under another --name.")
    lock = lock_run(run_dir)
    try:
        status = read_status(run_dir)
        if status is not None and status.state == "finished":
            raise OrthoLoraError(f"{run_dir}: the run is finished: there is nothing to go on with.")
        check_exists(run_dir, "to go on from")
        config = load_config(overrides=info.config)
        config.require_extras()
        check_rule(config.effective.rule)
        with stop_on_signal() as stop:
            training = Training(config, tasks_of(config), report, stop)
            training.restore(run_dir)
            recorder = Recorder.resume(
                run_dir,
                lock,
                dict.fromkeys(TABLES, training.place.step)
                | dict.fromkeys(("metrics", "predictions"), training.place.evaluated + 1)
                | dict.fromkeys(("snapshots", "snapshot_tasks", "texts", "vectors"), training.place.snapshot + 1),
                total=config.steps,
                flush_rows=config.flush_rows,
                flush_seconds=config.flush_seconds,
            )
            with recorder, log_to(run_dir / "log.txt"):
                log.info("resumed from the checkpoint after step %d", training.place.step)
                for name, version in versions().items():
                    if version != (former := info.versions.get(name)):
                        message = f"{name} is {version} now and was {former}: the run may go on a little differently."
                        log.warning(message)
                        warnings.warn(message, OrthoLoraWarning, stacklevel=2)
                training.run(recorder)
    finally:
        lock.release(force=True)
    return run_dir
