"""What people say of a run: a title, tags, a note, and whether it is archived.

They live in `notes.json` in the run's directory, apart from what training writes, so that a run can be named while it
trains. A run is renamed by its title; its directory keeps its name, because the process that trains it, its probes,
links to the dashboard and the `run.json` inside all go by that.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.files import open_regular, replace_text, why

LONGEST_TITLE = 100
LONGEST_TAG = 30
LONGEST_NOTE = 4000
MOST_TAGS = 20

_LARGEST = 100_000  # bytes; what the limits above allow is less


def _one_line(text: object) -> object:
    return " ".join(text.split()) if isinstance(text, str) else text


def _once(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tags))


_Title = Annotated[str, Field(max_length=LONGEST_TITLE), BeforeValidator(_one_line)]
_Tag = Annotated[str, Field(min_length=1, max_length=LONGEST_TAG), BeforeValidator(_one_line)]
_Tags = Annotated[tuple[_Tag, ...], Field(max_length=MOST_TAGS), AfterValidator(_once)]


class Notes(BaseModel):
    """`notes.json`. Untrusted: whoever may write the runs directory may have written it."""

    model_config = ConfigDict(frozen=True)

    title: _Title = ""  # shown beside the name of the directory
    tags: _Tags = ()
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""
    archived: bool = False


def make_notes(**fields: object) -> Notes:
    """Notes of what somebody entered; raises OrthoLoraError where it is too long or too much."""
    try:
        return Notes.model_validate(fields)
    except ValidationError as error:
        raise OrthoLoraError("; ".join(map(_words, error.errors()))) from None


def read_notes(run_dir: Path) -> Notes:
    """What is said of a run: nothing where there is no `notes.json`.

    Raises:
        OrthoLoraError: it cannot be read as one.
    """
    path = run_dir / "notes.json"
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise OrthoLoraError(f"{path}: larger than {_LARGEST:,} bytes, so it is not read: remove it.")
        return Notes.model_validate_json(text)
    except FileNotFoundError:
        return Notes()
    except (OSError, ValidationError) as error:
        reason = why(error) if isinstance(error, OSError) else _words(error.errors()[0])
        raise OrthoLoraError(f"{path}: cannot be read as notes ({reason}): remove it, or save new ones.") from None


def write_notes(run_dir: Path, notes: Notes) -> None:
    """Replace what is said of a run.

    Raises:
        OrthoLoraError: the run is gone, or its directory cannot be written.
    """
    try:
        replace_text(run_dir / "notes.json", notes.model_dump_json(indent=1))
    except FileNotFoundError:
        raise OrthoLoraError(f"{run_dir}: is not there any more, so its notes cannot be saved.") from None
    except OSError as error:
        raise OrthoLoraError(
            f"{run_dir}: cannot be written ({error.strerror}), so its notes stay as they were: "
            "ask its owner for the right to write."
        ) from error


def _words(error: ErrorDetails) -> str:
    """Like `title: string should have at most 100 characters`."""
    said = error["msg"][:1].lower() + error["msg"][1:]
    return f"{error['loc'][0]}: {said}" if error["loc"] else said
