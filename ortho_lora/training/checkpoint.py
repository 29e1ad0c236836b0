"""What a run needs to go on as if it had never been interrupted, in one file that is replaced atomically."""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import sync_directory
from ortho_lora.record.schema import CHECKPOINT
from ortho_lora.surgery.surgeon import OrthoLoRA
from ortho_lora.tasks.data import TaskData
from ortho_lora.training.batches import TaskSampler


@dataclass
class Place:
    """Where a training is."""

    step: int = 0  # optimizer steps done
    evaluated: int = -1  # steps done before the last evaluation that was completed; -1: none was
    snapshot: int = -1  # steps done before the last snapshot that was taken; -1: none was
    snapshot_seconds: float = 0.0  # of the last snapshot, for the ETA
    step_seconds: float = 0.0  # of all steps, for the ETA
    evaluation_seconds: float = 0.0  # of the last evaluation
    peak_memory_bytes: int = 0  # of the process, or of those before it that trained the run


class Checkpoint:
    """All that changes while a run trains, but for its record."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        surgeons: Sequence[OrthoLoRA],
        sampler: TaskSampler,
        tasks: Sequence[TaskData],
        device: torch.device,
    ) -> None:
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter in trained}
        self.optimizer, self.scheduler, self.sampler = optimizer, scheduler, sampler
        self.surgeons, self.tasks, self.device = surgeons, tasks, device
        self.data = fingerprint(tasks)

    def save(self, run_dir: Path, place: Place, losses: dict[str, float]) -> None:
        """Replace the run's checkpoint; the former one stays until this one is complete.

        Raises:
            OrthoLoraError: it cannot be written.
        """
        state = {"place": vars(place), "losses": losses, "data": self.data, **self.state_dict()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = run_dir / CHECKPOINT
        temporary = path.with_name(f".{path.name}")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise OrthoLoraError(
                f"{path}: the checkpoint cannot be written ({error.strerror}): free space, or make the directory"
                " writable. The one before is kept."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """All that changes, not copied: it goes on changing."""
        return {
            "parameters": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "surgeons": [surgeon.state_dict() for surgeon in self.surgeons],
            "sampler": self.sampler.state_dict(),
            "random": _random_state(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set everything to what it was; tensors that are given may become the optimizer's own."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for surgeon, saved in zip(self.surgeons, state["surgeons"], strict=True):
            surgeon.load_state_dict(saved)
        self.sampler.load_state_dict(state["sampler"])
        _set_random_state(state["random"], self.device)

    def restore(self, run_dir: Path) -> tuple[Place, dict[str, float]]:
        """Set everything to what it was; return the place and the losses of its last step.

        Raises:
            OrthoLoraError: there is no checkpoint, or it does not fit the data or the model.
        """
        path = run_dir / CHECKPOINT
        state = _load(path)
        if state["data"] != self.data:
            raise OrthoLoraError(
                f"{run_dir}: the tasks' data are not those that the run was trained on, so what follows would not be"
                " of that run: bring the former files back, or train anew."
            )
        shapes = {name: parameter.shape for name, parameter in self.trained.items()}
        if shapes != {name: saved.shape for name, saved in state["parameters"].items()}:
            raise OrthoLoraError(f"{path}: holds an adapter of another model: bring the former model back.")
        self.load_state_dict(state)
        return Place(**state["place"]), state["losses"]


def check_exists(run_dir: Path, purpose: str) -> None:
    """Raise OrthoLoraError where a run has no checkpoint for a purpose, as in `to go on from`."""
    if not (run_dir / CHECKPOINT).is_file():
        raise OrthoLoraError(
            f"{run_dir}: there is no checkpoint {purpose}: it ended before its first one, checkpoint_every was"
            " null, or another loop than `python -m ortho_lora train` recorded it. Train anew under another --name."
        )


def fingerprint(tasks: Sequence[TaskData]) -> str:
    """A hash of all texts and labels, in their order."""
    digest = blake2b(digest_size=16)
    for task in tasks:
        for name, split in [("train", task.train), *task.evaluation.items()]:
            digest.update(repr((task.name, task.kind, task.classes, name, len(split))).encode())
            digest.update(split.labels.tobytes())
            for text in [*split.texts, *(split.text_pairs or [])]:
                # A length before each text: where one ends and the next begins counts as well.
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def replace_directory(temporary: Path, final: Path) -> None:
    """Put a complete directory in place of another one, or of none."""
    former = final.with_name(f".{final.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if final.exists():
        final.rename(former)
    temporary.rename(final)
    sync_directory(final.parent)
    shutil.rmtree(former, ignore_errors=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise OrthoLoraError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]}).") from error
    return state


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
