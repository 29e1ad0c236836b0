import json

import pytest

from analysis.library.notes import Notes, make_notes, read_notes, write_notes
from ortho_lora.errors import OrthoLoraError


def test_nothing_is_said_of_a_new_run(tmp_path):
    assert read_notes(tmp_path) == Notes()


def test_what_is_written_is_read(tmp_path):
    notes = make_notes(title=" the  good\none ", tags=["a", "b", "a "], note="<b>x</b>\n**y** ✓", archived=True)
    write_notes(tmp_path, notes)
    assert read_notes(tmp_path) == notes
    assert (notes.title, notes.tags, notes.note) == ("the good one", ("a", "b"), "<b>x</b>\n**y** ✓")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"title": "x" * 101}, "title: string should have at most 100 characters"),
        ({"note": "x" * 4001}, "note: string should have at most 4000 characters"),
        ({"tags": [str(number) for number in range(21)]}, "tags: .*at most 20"),
        ({"tags": ["x" * 31]}, "tags: string should have at most 30 characters"),
        ({"tags": [" "]}, "tags: string should have at least 1 character"),
    ],
)
def test_too_much_is_refused(fields, sentence):
    with pytest.raises(OrthoLoraError, match=sentence):
        make_notes(**fields)


@pytest.mark.parametrize("text", ["{", "[]", '{"tags": 3}', json.dumps({"note": "x" * 200_000}), "\0\xff"])
def test_damaged_notes_are_told(tmp_path, text):
    (tmp_path / "notes.json").write_text(text, encoding="latin-1")
    with pytest.raises(OrthoLoraError, match=r"notes\.json: .*remove it"):
        read_notes(tmp_path)
    write_notes(tmp_path, make_notes(title="anew"))
    assert read_notes(tmp_path).title == "anew"


def test_directory_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "notes.json").mkdir()
    with pytest.raises(OrthoLoraError, match="cannot be written .*, so its notes stay as they were"):
        write_notes(tmp_path, Notes())
    with pytest.raises(OrthoLoraError, match="is not there any more"):
        write_notes(tmp_path / "gone", Notes())
