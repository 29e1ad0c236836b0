"""Runs as tasks of a Ray cluster. All its machines see the study's directory under one path, and have this program.

Each task starts the process that this machine would start, beside a Ray worker. A task whose worker or machine is lost
is given to another, where the run goes on from its checkpoint.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.origin import Origin, find
from ortho_lora.study.executors import Handle, begin
from ortho_lora.study.folder import Folder
from ortho_lora.training.config import load_config

LOOK_SECONDS = 0.5
"""Seconds between two looks of a task at its process, and at whether it is to end."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0, Ray serves 127.0.0.1 alone, on every system; read when it is imported."""
RETRIES = 3
"""How often Ray gives a task to another worker when its own is lost."""


class Cluster:
    """Starts runs on a cluster."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster.

        Args:
            address: as in `127.0.0.1:6379`; `local` starts one on this machine, for as long as this process lives.

        Raises:
            OrthoLoraError: Ray is not installed, or there is no cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here: dict[str, Any] = {}
        if address == "local":
            os.environ.setdefault(LOOPBACK, "0")
            here = {"include_dashboard": False}
        self._ray = _ray()
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OrthoLoraError(
                f"--ray {address}: no cluster answers there ({str(error).splitlines()[0]}): expected `local`, or the"
                " address that `ray start --head` prints."
            ) from error
        resources = self._ray.cluster_resources()
        self.cpus, self._has_gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0) > 0

    def start(self, folder: Folder, run_id: str) -> Handle:
        config = load_config(folder.settings(run_id))
        _stop_file(folder).unlink(missing_ok=True)
        # Ray hides the accelerators of a machine from tasks that do not ask for one.
        gpus = int(self._has_gpus and config.device != "cpu")
        task = self._ray.remote(num_cpus=config.threads or 1, num_gpus=gpus, max_retries=RETRIES)(attend)
        return Task(self._ray, task.remote(str(folder.path.resolve()), run_id, os.getcwd()), folder)

    def adopt(self, folder: Folder, run_id: str) -> None:
        """None: a task waits for what lives of its run on the machine where it comes to be."""


class Task:
    """A task under way, or waiting for a worker."""

    def __init__(self, ray: Any, reference: Any, folder: Folder) -> None:
        self._ray, self._reference, self._folder = ray, reference, folder

    def ended(self) -> int | None:
        done, _ = self._ray.wait([self._reference], timeout=0)
        if not done:
            return None
        try:
            return int(self._ray.get(self._reference))
        except self._ray.exceptions.RayTaskError:
            raise  # of `attend` itself
        except self._ray.exceptions.RayError:  # lost again and again
            return -1

    def stop(self) -> None:
        _stop_file(self._folder).touch()

    def kill(self) -> None:
        self.stop()
        self._ray.wait([self._reference], timeout=10)


def attend(path: str, run_id: str, directory: str) -> int:
    """Train a run from where it is, on this machine, and return the exit status of its process.

    Args:
        path: of the study's directory.
        run_id: of the run.
        directory: where the command was given, for paths that the configuration holds.
    """
    folder = Folder(Path(path))
    # A worker that was lost may have left its process behind: here, or elsewhere with the run's lock.
    if process := folder.process(run_id):
        origin = Origin.of(process)
        while find(origin) and not _stop_file(folder).exists():
            time.sleep(LOOK_SECONDS)
    if (folder.path / run_id).exists():
        with FileLock(folder.path / run_id / "lock", poll_interval=LOOK_SECONDS):
            pass
    if folder.state(run_id) == "finished" or _stop_file(folder).exists():
        return 0
    child = begin(folder, run_id, Path(directory))
    while (code := child.poll()) is None:
        if _stop_file(folder).exists():
            child.terminate()
        time.sleep(LOOK_SECONDS)
    return code


def _stop_file(folder: Folder) -> Path:
    """There, when all tasks are to end after their step: machines share nothing else."""
    return folder.hidden / "stop"


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise OrthoLoraError("--ray needs the package ray: pip install 'ortho-lora[ray]'") from error
    return ray
