"""Files that users bring: none leaves its folder, none is believed unread."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import uploads
from ortho_lora.errors import OrthoLoraError

CSV = b"text,label\ngood film,1\nbad film,0\n"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("reviews.csv", "reviews.csv"),
        ("../../etc/passwd.csv", "passwd.csv"),
        ("..\\..\\up.csv", "up.csv"),
        ("/absolute/a b?.CSV", "a-b.csv"),
        (".hidden.csv", "hidden.csv"),
        ("....csv", "data.csv"),
        ("<script>.csv", "script.csv"),
        ("x" * 300 + ".csv", "x" * 80 + ".csv"),
        ("nul\0byte.csv", "nul-byte.csv"),
    ],
)
def test_no_name_leaves_the_folder(name, kept, tmp_path):
    path = uploads.keep(tmp_path, name, CSV)
    assert path == tmp_path / ".uploads" / kept
    assert path.read_bytes() == CSV
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert uploads.uploaded(tmp_path) == [kept]


def test_other_content_never_replaces_a_file_and_the_same_is_kept_once(tmp_path):
    first = uploads.keep(tmp_path, "a.csv", CSV)
    second = uploads.keep(tmp_path, "a.csv", CSV + b"odd film,1\n")
    assert (first.name, second.name) == ("a.csv", "a-2.csv")
    assert uploads.keep(tmp_path, "a.csv", CSV) == first
    assert first.read_bytes() == CSV
    assert sorted(uploads.uploaded(tmp_path)) == ["a-2.csv", "a.csv"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.exe", CSV, "expected a file that ends with .csv, .tsv, .jsonl, .parquet"),
        ("noending", CSV, "expected a file that ends with"),
        ("a.csv", b"\xff\xfe\x00", "cannot read a.csv as csv in UTF-8"),
        ("a.csv", b"", "a.csv is empty: expected a header"),
        ("a.csv", b"text,label\n", "a.csv has no rows"),
        ("a.csv", b"text,label\na,b,c,d\n", "line 2 of a.csv differs from its header in the number of fields, 4 for 2"),
        ("a.jsonl", b"{", "cannot read a.jsonl as jsonl"),
        ("a.parquet", CSV, "cannot read a.parquet as parquet"),
    ],
)
def test_bad_file_is_refused_in_words_and_not_kept(name, content, sentence, tmp_path):
    with pytest.raises(OrthoLoraError) as refused:
        uploads.keep(tmp_path, name, content)
    assert sentence in str(refused.value)
    assert ".uploads" not in str(refused.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_size_is_limited_also_when_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_MEGABYTES", 1)
    with pytest.raises(OrthoLoraError, match="2 MB, expected at most 1"):
        uploads.keep(tmp_path, "a.csv", b"a" * 2 * 2**20)
    words = pa.array(["word " * 1000 + str(number) for number in range(4000)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": words}), sink, compression="zstd", use_dictionary=False)
    packed = sink.getvalue().to_pybytes()
    assert len(packed) < 2**20
    with pytest.raises(OrthoLoraError, match="MB when unpacked, expected at most 10"):
        uploads.keep(tmp_path, "a.parquet", packed)


def test_every_format_is_read(tmp_path):
    rows = pd.DataFrame({"text": ["good", "bad"], "label": ["1", "0"]})
    rows.to_parquet(tmp_path / "source.parquet")
    contents = {
        "a.csv": CSV,
        "a.tsv": CSV.replace(b",", b"\t"),
        "a.jsonl": rows.to_json(orient="records", lines=True).encode(),
        "a.parquet": (tmp_path / "source.parquet").read_bytes(),
    }
    for name, content in contents.items():
        assert len(uploads.read(uploads.keep(tmp_path / "runs", name, content))) == 2
