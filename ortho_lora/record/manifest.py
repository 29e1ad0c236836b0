"""`manifest.json`: which parts of a record count, and how its roll-ups are binned. Importable without torch."""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import read_bytes, why
from ortho_lora.record.tables import SCHEMAS

_NAME = re.compile(r"part-[0-9]+\.parquet")
_TABLE = re.compile(r"[a-z_]+(/[a-z_]+)?")


class Part(BaseModel):
    """One Parquet file of a table: its rows are of the steps `first` to `last`, in order."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    first: int
    last: int

    @field_validator("name")
    @classmethod
    def _refuse_others(cls, name: str) -> str:
        """A manifest names files of its own run, beside which it lies, and no path to anything else."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"it names {name!r}: expected a file of its own run, like part-000000.parquet")
        return name


class Bins(BaseModel):
    """How the roll-ups `by_layer` put recorded steps in bins: from `first` on, `width` steps each."""

    model_config = ConfigDict(frozen=True)

    first: int
    width: int

    def start(self, step: int, together: int = 1) -> int:
        """First step of the bin of `step`, or of so many bins together."""
        width = self.width * together
        return self.first + (step - self.first) // width * width


class Manifest(BaseModel):
    """What a reader needs to find the rows, replaced in one moment."""

    model_config = ConfigDict(frozen=True)

    parts: dict[str, tuple[Part, ...]] = {}  # by table or roll-up, in step order
    bins: Bins | None = None  # None: no bin was begun

    @field_validator("parts")
    @classmethod
    def _refuse_others(cls, parts: dict[str, tuple[Part, ...]]) -> dict[str, tuple[Part, ...]]:
        for table in parts:
            if not _TABLE.fullmatch(table):
                raise ValueError(f"it names {table!r}: expected a table of its own run, like pairs")
        return parts

    def of(self, table: str) -> tuple[Part, ...]:
        """The parts of a table or roll-up.

        Raises:
            KeyError: there is no such table.
        """
        SCHEMAS[table]
        return self.parts.get(table, ())

    def replaced(self, table: str, parts: Sequence[Part]) -> "Manifest":
        """With other parts of one table."""
        return self.model_copy(update={"parts": self.parts | {table: tuple(parts)}})


def read_manifest(run_dir: Path) -> Manifest:
    """Read `manifest.json`; an empty one where there is none.

    Raises:
        OrthoLoraError: it is not one.
    """
    path = Path(run_dir) / "manifest.json"
    try:
        return Manifest.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        return Manifest()
    except OSError as error:
        raise OrthoLoraError(f"{path}: cannot be read ({why(error)}).") from error
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise OrthoLoraError(f"{path}: not a manifest of a record ({said}).") from error


def part_files(run_dir: Path, table: str) -> list[Path]:
    """The Parquet parts of a table or roll-up that count now, in step order.

    Raises:
        KeyError: there is no such table.
        OrthoLoraError: the manifest cannot be read.
    """
    return [Path(run_dir) / table / part.name for part in read_manifest(run_dir).of(table)]
