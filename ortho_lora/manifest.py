"""`manifest.json`: which parts of a record count, and how its roll-ups are binned. Importable without torch."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tables import SCHEMAS


class Part(BaseModel):
    """One Parquet file of a table: its rows are of the steps `first` to `last`, in order."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    first: int
    last: int


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
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Manifest()
    except ValidationError as error:
        raise OrthoLoraError(f"{path}: not a manifest of a record ({error.errors()[0]['msg']}).") from error


def part_files(run_dir: Path, table: str) -> list[Path]:
    """The Parquet parts of a table or roll-up that count now, in step order.

    Raises:
        KeyError: there is no such table.
        OrthoLoraError: the manifest cannot be read.
    """
    return [Path(run_dir) / table / part.name for part in read_manifest(run_dir).of(table)]
