"""Files that users bring: none leaves its folder, none is believed unread."""

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.launching import uploads
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
    assert [found for found in tmp_path.rglob("*") if found.is_file() and found.name != ".lock"] == [path]
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


def test_uploads_of_one_name_at_once_keep_every_content(tmp_path):
    """Twenty of them, from threads that begin together: each is kept once, under a name of its own."""
    contents = [CSV + f"film {number % 10},1\n".encode() for number in range(20)]
    together = threading.Barrier(len(contents))

    def upload(content):
        together.wait()
        return uploads.keep(tmp_path, "a.csv", content)

    with ThreadPoolExecutor(len(contents)) as pool:
        paths = list(pool.map(upload, contents))
    assert [path.read_bytes() for path in paths] == contents
    assert len(set(paths)) == 10
    assert sorted(uploads.uploaded(tmp_path)) == sorted(path.name for path in set(paths))


def test_names_that_are_taken_by_no_files_are_passed_over(tmp_path):
    uploads.folder(tmp_path).mkdir()
    (uploads.folder(tmp_path) / "a.csv").mkdir()
    os.mkfifo(uploads.folder(tmp_path) / "a-2.csv")
    (uploads.folder(tmp_path) / "a-3.csv").symlink_to("a-3.csv")
    assert uploads.keep(tmp_path, "a.csv", CSV).name == "a-4.csv"
    assert uploads.uploaded(tmp_path) == ["a-4.csv"]


@pytest.fixture
def read_bytes_of(monkeypatch):
    """How many bytes were read of files that are opened for a look."""
    counted = []
    plain = uploads.open_regular

    class Counting(io.FileIO):
        def readinto(self, buffer):
            counted.append(super().readinto(buffer))
            return counted[-1]

        def read(self, size=-1):
            counted.append(len(content := super().read(size)))
            return content

    def opened(path):
        with plain(path):
            return Counting(path)

    monkeypatch.setattr(uploads, "open_regular", opened)
    return counted


@pytest.mark.parametrize("ending", uploads.ENDINGS)
def test_a_look_reads_no_more_than_it_shows(ending, tmp_path, read_bytes_of):
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, 60))) for _ in range(100_000)]
    frame = pd.DataFrame({"text": words, "label": rng.integers(0, 2, len(words))})
    path = tmp_path / f"large.{ending}"
    match ending:
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path, row_group_size=20_000)
        case _:
            frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    shown, count = uploads.head(path)
    assert shown["text"].tolist() == words[:100]
    assert shown["label"].astype(int).tolist() == frame["label"].head(100).tolist()
    assert count == (100_000 if ending == "parquet" else None)
    assert sum(read_bytes_of) < path.stat().st_size / 4
    if ending != "parquet":
        assert sum(read_bytes_of) <= 2**16 + 1


def test_a_look_at_a_small_file_knows_how_many_rows_it_has(tmp_path):
    (tmp_path / "a.csv").write_bytes(CSV)
    shown, count = uploads.head(tmp_path / "a.csv")
    assert (len(shown), count) == (2, 2)


def test_a_row_over_many_lines_is_looked_at_wholly(tmp_path):
    """A quoted field that the first look cuts: more is read."""
    text = "line\n" * 30_000
    (tmp_path / "a.csv").write_text(f'text,label\n"{text}",1\n' + "next,0\n" * 100_000)
    shown, count = uploads.head(tmp_path / "a.csv")
    assert (shown["text"].iloc[0], shown["text"].iloc[1], len(shown), count) == (text, "next", 100, None)


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("a.csv", lambda path: None, "there is no file"),
        ("a.csv", os.mkfifo, "not a regular file"),
        ("a.parquet", os.mkfifo, "not a regular file"),
        ("a.parquet", lambda path: path.write_bytes(CSV), "as parquet"),
        ("a.csv", lambda path: path.write_text("text,label\n"), "has no rows"),
        ("a.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "a.csv as csv in UTF-8"),
    ],
)
def test_a_look_at_what_cannot_be_read_is_refused_in_words(name, make, sentence, tmp_path):
    make(tmp_path / name)
    with pytest.raises(OrthoLoraError, match=sentence):
        uploads.head(tmp_path / name)
