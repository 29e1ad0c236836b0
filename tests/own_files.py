"""Files of data as users bring them, and what they are refused with."""

import pandas as pd
import pytest

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.files import load_file, read_table

FORMATS = ["csv", "tsv", "jsonl", "parquet"]


def write(path, columns):
    table = pd.DataFrame(columns)
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".tsv":
            table.to_csv(path, sep="\t", index=False)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(path)
    return path


def columns(labels, n=40):
    return {"text": [f"text {i}" for i in range(n)], "label": [labels[i % len(labels)] for i in range(n)]}


def refusal(path, text="text", label="label", **settings):
    with pytest.raises(OrthoLoraError) as caught:
        load_file("own", path, text, label, **settings)
    return str(caught.value)


def lines(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def rows_of(path):
    return read_table(path).rows.astype(str).to_numpy().tolist()
