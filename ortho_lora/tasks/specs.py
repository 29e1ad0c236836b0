"""What a configuration says of a task, validated before any data are loaded."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from ortho_lora.tasks.packaged import PACKAGED

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]


def _as_text(label: Any) -> Any:
    """A label that is a number as text."""
    return str(label) if isinstance(label, int | float) and not isinstance(label, bool) else label


def _listed(labels: Any) -> Any:
    """A single label as a list of one."""
    return [labels] if isinstance(labels, str) else labels


Metric = Literal["accuracy", "macro_f1", "f1", "matthews", "pearson", "spearman", "rmse", "r2"]
"""Names in `ortho_lora.tasks.metrics`, which takes seconds to import."""
Label = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
Labels = Annotated[tuple[Label, ...], BeforeValidator(_listed)]


class Strict(BaseModel):
    """Settings that refuse what they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class _Task(Strict):
    name: Name
    """Name of the task in the record."""
    loss_weight: float = Field(1.0, gt=0, le=1e6)
    """Factor on the task's loss, and so on its gradient."""


class PackagedTask(_Task):
    """A task whose data comes from a package of the ordinary registry."""

    name: Literal[tuple(PACKAGED)]  # type: ignore[valid-type]


class _RowsTask(_Task):
    """Rows: which are left out, and counted in the record, and which belong together."""

    skip_empty: bool = Field(False, exclude_if=lambda skip: not skip)
    """Leave out rows without a text or label, in place of refusing them."""
    drop_labels: Annotated[tuple[Label, ...], BeforeValidator(_listed)] = Field(
        (), exclude_if=lambda labels: not labels
    )
    """Leave out rows with these labels, as in `["-"]`."""
    group: str | None = Field(None, exclude_if=lambda group: group is None)
    """Column that says what a row is of, as a film or an author, which is never parted; null: of its texts alone."""
    metrics: tuple[Metric, ...] = Field((), exclude_if=lambda metrics: not metrics)
    """What is evaluated, the primary metric first, as in `[matthews]`; empty: what is usual for the data."""


class FileTask(_RowsTask):
    """The user's own data: CSV, TSV, JSONL or Parquet."""

    path: Path
    """File with the examples."""
    text: str
    """Column with the text."""
    label: str
    """Column with the label."""
    text_pair: str | None = None
    """Column with a second text."""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """What the label is; `auto` tells from its values."""
    validation_path: Path | None = None
    """File with the validation examples; without it a part of `path` is held out."""


class HubTask(_RowsTask):
    """A data set of the Hugging Face hub, or a local copy in its layout."""

    dataset: str
    """As in `glue/sst2`; GLUE's tasks need nothing more."""
    text: str | None = None
    """Column with the text."""
    label: str | None = None
    """Column with the label."""
    text_pair: str | None = None
    """Column with a second text."""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """What the label is."""


class DialTask(_Task):
    """A twin of a two-class task: the same texts in the same step, labels flipped with probability `rho`."""

    twin_of: Name
    """The task that it copies."""
    rho: float = Field(ge=0, le=1)
    """Probability that a label is flipped; the gradients' cosine is then about 1 - 2 rho."""
    own_head: bool = False
    """Give the twin a head of its own, which can absorb the flip, in place of the original's."""


_FIELDS_OF_KINDS = {"path": "file", "dataset": "hub", "twin_of": "dial"}


def _kind_of(task: Any) -> str:
    fields = task if isinstance(task, dict) else getattr(task, "model_fields_set", ())
    return next((kind for field, kind in _FIELDS_OF_KINDS.items() if field in fields), "packaged")


Task = Annotated[
    Annotated[PackagedTask, Tag("packaged")]
    | Annotated[FileTask, Tag("file")]
    | Annotated[HubTask, Tag("hub")]
    | Annotated[DialTask, Tag("dial")],
    Discriminator(_kind_of),
]


def expand_task(short: str) -> dict[str, Any]:
    """The long form of `trec`, `hf:glue/sst2`, `movies@0.7` (dial) or `movies@0.7+head` (twin with its own head)."""
    if short.startswith("hf:"):
        dataset = short.removeprefix("hf:")
        return {"name": Path(dataset).name, "dataset": dataset}
    if dial := re.fullmatch(r"(?P<twin_of>[^@]+)@(?P<rho>[^@+]+)(?P<head>\+head)?", short):
        own_head = dial["head"] is not None
        name = f"{dial['twin_of']}-flip{dial['rho']}" + ("-own" if own_head else "")
        return {"name": name, "twin_of": dial["twin_of"], "rho": dial["rho"], "own_head": own_head}
    return {"name": short}
