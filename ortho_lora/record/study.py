"""`study.json`: what a study planned and chose, in the directory that holds its runs. Importable without torch.

The runs themselves are records like any other; this file says what each of them is for.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import read_bytes, replace_text, why
from ortho_lora.record.versions import refuse_newer

STUDY_VERSION = 1
FILE_NAME = "study.json"
SELECTION_SPLIT = "selection"
"""The part of the validation data that settings are chosen on; results are told of the rest, `validation`."""

Settings = dict[str, Any]
"""Settings of `train` with their values."""


class Cell(BaseModel):
    """What results are told of: a method, under one condition, on all tasks or a pair of them."""

    model_config = ConfigDict(frozen=True)

    method: str  # name in the study: `joint`, or one of its own for a method with settings, as `joint-rank32`
    condition: dict[str, str] = {}  # label of each axis, in the order of the axes: {"rho": "0.5"}
    pair: tuple[str, str] | None = None  # of the transfer matrix: these two tasks alone; None: all tasks

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...], tuple[str, str] | None]:
        """What tells cells apart, hashable."""
        return self.method, tuple(self.condition.items()), self.pair


class Use(BaseModel):
    """What a run is for. One run may be of use several times: equal configurations are trained once."""

    model_config = ConfigDict(frozen=True)

    run_id: str  # name of its directory, beside `study.json`
    cell: Cell
    candidate: Settings = {}  # what was tuned, with the values of this run
    seed: int


class Choice(BaseModel):
    """The candidate of a cell that did best on the selection split."""

    model_config = ConfigDict(frozen=True)

    cell: Cell
    candidate: Settings
    scores: tuple[float | None, ...] = ()  # by candidate, in their order; None: not compared, for want of finished runs
    seeds: tuple[int, ...] | None = None  # that candidates were compared on; None: an older record does not say


class Predicted(BaseModel):
    """What a snapshot promises of a method: nats a step of the tasks' summed validation loss, against one adapter with
    the run's weights; below 0 it is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float
    low: float  # 95% interval
    high: float
    elsewhere: float | None = None  # the same of what is chosen on other texts than it is judged on; None: not chosen


class Advice(BaseModel):
    """The advice that a study tries (`study --from-advice`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str  # whose snapshots it is from
    adapters: int  # how many are advised
    advised: str  # the method that is the advice: `joint`, `single`, or that of `groups`
    groups: str | None = None  # the method with the best groups of their number; None: two tasks have none
    random: tuple[str, ...] = ()  # methods with random groups of the same sizes
    predicted: dict[str, Predicted] = {}  # by method, of those that anything is predicted of


class Study(BaseModel):
    """`study.json`, replaced whenever a phase has been planned or chosen."""

    model_config = ConfigDict(frozen=True)

    version: int = STUDY_VERSION
    name: str
    title: str = ""  # the question, in words
    created: float  # seconds since the epoch, UTC
    command: list[str]
    file: Settings  # the study's file, as read
    methods: tuple[str, ...]  # in the order of the file
    baseline: str  # the method that others are compared with: `joint`
    axes: dict[str, tuple[str, ...]] = {}  # labels of each axis, in order
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]  # of the runs that candidates are compared by
    candidates: dict[str, int]  # how many candidates each method had: its tuning budget
    uses: tuple[Use, ...] = ()
    advice: Advice | None = None  # that it tries; None: it was not made from any
    choices: tuple[Choice, ...] = ()  # of cells where there was a choice to make, once it is made
    phase: Literal["tuning", "reporting", "done"] = "tuning"

    @field_validator("version")
    @classmethod
    def _refuse_newer(cls, version: int) -> int:
        return refuse_newer("study", version, STUDY_VERSION)


def is_study(directory: Path) -> bool:
    """Whether a study has begun to be recorded there."""
    return (Path(directory) / FILE_NAME).is_file()


def read_study(directory: Path) -> Study:
    """Read `study.json`.

    Raises:
        OrthoLoraError: there is none, it cannot be read, or a newer version of this program wrote it.
    """
    path = Path(directory) / FILE_NAME
    try:
        return Study.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        raise OrthoLoraError(
            f"{directory}: not a study (no {FILE_NAME}); expected a directory made by `study`."
        ) from None
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be read ({why(error)}).") from error
    except OrthoLoraError as error:
        raise OrthoLoraError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OrthoLoraError(f"{path}: cannot be read as a study ({place}: {first['msg']}).") from error


def write_study(directory: Path, study: Study) -> None:
    """Replace `study.json`: a reader sees the old one or the new one."""
    replace_text(Path(directory) / FILE_NAME, study.model_dump_json(indent=1))
