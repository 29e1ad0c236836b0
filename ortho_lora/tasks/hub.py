"""Tasks on data sets of the Hugging Face hub, or on local copies in its layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Kind, TaskData
from ortho_lora.tasks.tables import Columns, Table, task_from_tables

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Preset:
    """Columns and official metrics of a known data set."""

    text: str
    text_pair: str | None
    metrics: tuple[str, ...]
    evaluation: tuple[str, ...] = ("validation",)
    kind: Kind = "classification"


GLUE: Mapping[str, Preset] = {
    "mnli": Preset("premise", "hypothesis", ("accuracy",), ("validation_matched", "validation_mismatched")),
    "qqp": Preset("question1", "question2", ("accuracy", "f1")),
    "sst2": Preset("sentence", None, ("accuracy",)),
    "cola": Preset("sentence", None, ("matthews",)),
    "mrpc": Preset("sentence1", "sentence2", ("accuracy", "f1")),
    "rte": Preset("sentence1", "sentence2", ("accuracy",)),
    "qnli": Preset("question", "sentence", ("accuracy",)),
    "stsb": Preset("sentence1", "sentence2", ("pearson", "spearman"), kind="regression"),
}
"""GLUE's tasks by the last part of their path, as in `glue/sst2`."""


def load_hub(
    name: str,
    dataset: str,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    train_split: str = "train",
    validation_split: str | None = None,
    kind: Literal["auto", Kind] = "auto",
    skip_empty: bool = False,
    drop_labels: Sequence[str] = (),
    group: str | None = None,
    metrics: Sequence[str] = (),
) -> TaskData:
    """A task from a data set such as `glue/sst2`, `owner/name` or `owner/name/configuration`, or from a directory
    with files like `train-00000-of-00001.parquet`.

    GLUE's tasks need no columns, wherever they are. Others take `text`, and `label` unless their column is called so.
    Without a split called `validation` (or `validation_split`) a part of the training split is held out; a test split
    is used only where it is named. Rows are left out as by `load_file`.

    Raises OrthoLoraError where the data set cannot be had or does not fit.
    """
    splits = _local(Path(dataset).expanduser()) if _is_local(dataset) else _remote(dataset)
    preset = GLUE.get(Path(dataset).name.lower()) if text is None else None
    if preset:
        text, text_pair = preset.text, preset.text_pair
        kind = preset.kind if kind == "auto" else kind
    required = (validation_split,) if validation_split else preset.evaluation if preset else ()
    for split in (train_split, *required):
        if split not in splits:
            raise OrthoLoraError(f"{dataset} has no split {split!r}: it has {', '.join(splits) or 'no Parquet files'}")
    train = splits[train_split]
    if text is None:
        raise OrthoLoraError(
            f"the columns of {dataset} are not known beforehand, as those of GLUE's {', '.join(GLUE)} are: say"
            f" which one of {', '.join(train.column_names)} is the text"
        )
    columns = Columns(text, label or "label", text_pair, group)
    feature = train.features.get(columns.label)
    # Numbers that the data set itself names, and in the order in which it does.
    classes = tuple(getattr(feature, "names", None) or ()) if kind != "regression" else ()
    held = required or tuple({"validation"} & splits.keys())
    return task_from_tables(
        name,
        _table(dataset, train_split, train, columns.label, classes),
        {
            "validation" if split == held[0] else split: _table(dataset, split, splits[split], columns.label, classes)
            for split in held
        },
        columns,
        kind,
        classes=classes,
        metrics=metrics or (preset.metrics if preset else ()),
        skip_empty=skip_empty,
        drop_labels=drop_labels,
    )


def _table(dataset: str, split: str, content: "Dataset", label: str, classes: tuple[str, ...]) -> Table:
    rows = content.to_pandas()
    if classes and label in rows:  # -1 marks a label that is withheld
        rows[label] = rows[label].map(dict(enumerate(classes)))
    return Table(f"{dataset} ({split})", rows)


def _is_local(dataset: str) -> bool:
    return dataset.startswith((".", "~")) or Path(dataset).is_absolute() or Path(dataset).is_dir()


def _local(directory: Path) -> dict[str, "Dataset"]:
    import pyarrow as pa
    from pyarrow import parquet

    datasets = _datasets()
    if not directory.is_dir():
        raise OrthoLoraError(
            f"there is no directory {directory}: expected one with files like train-00000-of-00001.parquet"
        )
    shards: dict[str, list[Path]] = {}
    for path in sorted([*directory.glob("*.parquet"), *directory.glob("data/*.parquet")]):
        shards.setdefault(re.sub(r"-\d+-of-\d+$", "", path.stem), []).append(path)
    try:
        tables = {split: pa.concat_tables(map(parquet.read_table, paths)) for split, paths in shards.items()}
    except (pa.ArrowException, OSError) as error:
        raise OrthoLoraError(f"cannot read the Parquet files of {directory}: {error}") from error
    # Not through load_dataset, which would keep a copy of its own and knows fewer names of splits.
    return {split: datasets.Dataset(datasets.table.InMemoryTable(table)) for split, table in tables.items()}


def _remote(dataset: str) -> dict[str, "Dataset"]:
    datasets = _datasets()
    parts = dataset.split("/")
    if parts[0] == "glue" and len(parts) == 2:
        parts = ["nyu-mll", *parts]
    try:
        return dict(datasets.load_dataset("/".join(parts[:2]), *parts[2:]))
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise OrthoLoraError(
            f"cannot get {dataset} from the Hugging Face hub ({type(error).__name__}: {error}): check its name and the"
            f" connection, or give the path of a local copy, as in hf:./{dataset}"
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise OrthoLoraError("data sets of the hub need the package datasets: pip install datasets") from error
    return datasets
