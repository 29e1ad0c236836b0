"""How a file is taken apart into rows and fields, and what cannot be."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_files import columns, lines, refusal, rows_of, write

from ortho_lora.tasks.files import load_file


def test_surplus_fields(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na, with a comma,yes\nanother, too,no\n")
    message = refusal(tmp_path / "rows.csv")
    assert "line 2 of " in message
    assert "differs from its header in the number of fields, 3 for 2: quote fields that hold commas" in message
    (tmp_path / "rows.tsv").write_text("text\tlabel\na\tyes\nbroken\ntext\tno\n")
    assert "line 3 of " in refusal(tmp_path / "rows.tsv")


@given(
    rows=st.lists(st.tuples(st.text(st.characters(exclude_characters="\0\t\r", codec="utf-8")), st.sampled_from("ab"))),
    ending=st.sampled_from(["csv", "tsv"]),
)
def test_what_pandas_writes_is_read_as_it_was(tmp_path_factory, rows, ending):
    """Quotes, line ends and delimiters in texts, and texts that look like anything."""
    rows = [(f"{text}.", label) for text, label in [*rows, ("z", "a")]]
    path = tmp_path_factory.mktemp("rows") / f"rows.{ending}"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    assert rows_of(path) == [list(row) for row in rows]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind(tmp_path, ending):
    (tmp_path / "rows.csv").write_bytes(ending.join(["text,label", '"a, b",yes', "c,no", ""]).encode())
    (tmp_path / "rows.jsonl").write_bytes(
        ending.join(['{"text": "a, b", "label": "yes"}', '{"text": "c", "label": "no"}']).encode()
    )
    assert rows_of(tmp_path / "rows.csv") == rows_of(tmp_path / "rows.jsonl") == [["a, b", "yes"], ["c", "no"]]


SEEN = [(f"film {i} was seen", "yes" if i % 2 else "no") for i in range(60)]


def unbalanced(delimiter, *, closed):
    rows = list(SEEN)
    rows[9] = ('"film 9', "yes")
    if closed:
        rows[29] = ('film 29"', "no")
    return [delimiter.join(("text", "label")), *(delimiter.join(row) for row in rows)]


@pytest.mark.parametrize("closed", [True, False])
def test_in_a_tsv_file_a_line_stays_a_row_where_marks_do_not_balance(tmp_path, closed):
    path = lines(tmp_path / "rows.tsv", *unbalanced("\t", closed=closed))
    found = rows_of(path)
    assert len(found) == 60
    assert found[9] == ['"film 9', "yes"]


def test_a_tsv_file_of_both_kinds_is_refused(tmp_path):
    rows = unbalanced("\t", closed=True)
    rows[40] = '"a ""quoted"" word"\tno'
    assert "line 11 of " in refusal(lines(tmp_path / "rows.tsv", *rows))


@pytest.mark.parametrize(
    ("closed", "what"),
    [(True, "makes one row of 21 lines that look like rows"), (False, "nothing closes")],
)
def test_in_a_csv_file_marks_that_do_not_balance_are_refused(tmp_path, closed, what):
    path = lines(tmp_path / "rows.csv", *unbalanced(",", closed=closed))
    expected = f"line 11 of {path} has a quotation mark that {what}: quote that field and double the marks inside it"
    assert refusal(path).startswith(expected)


def test_rows_that_marks_swallow_are_found_beside_numbers_too(tmp_path):
    rows = [f"item {i},{i / 7:.3f}" for i in range(60)]
    rows[9], rows[29] = '"item 9,1.286', 'item 29",4.143'
    assert "makes one row of 21 lines" in refusal(lines(tmp_path / "rows.csv", "text,label", *rows))


def test_a_mark_that_closes_a_field_in_its_middle(tmp_path):
    path = lines(tmp_path / "rows.csv", "text,label", "one,yes", '"two" more,no')
    assert refusal(path).startswith(f"line 3 of {path} has a quotation mark that closes a field in its middle: quote")


@pytest.mark.parametrize(("ending", "between"), [("csv", ";"), ("csv", "\t"), ("tsv", ",")])
def test_fields_that_something_else_separates(tmp_path, ending, between):
    path = lines(tmp_path / f"rows.{ending}", between.join(["text", "label"]), between.join(["a", "b"]))
    expected = {"csv": "commas", "tsv": "tabs"}[ending]
    assert f"its fields seem to be separated by {between!r}, expected {expected}, as its ending says" in refusal(path)


def test_a_column_that_is_named_twice(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    expected = "has 2 columns named 'label': rename all but one"
    assert expected in refusal(lines(tmp_path / "rows.csv", "text,label,label", "a,b,c"))
    table = pa.table([["a"], ["b"], ["c"]], names=["text", "label", "label"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert expected in refusal(tmp_path / "rows.parquet")
    path = lines(tmp_path / "rows.jsonl", '{"text": "a", "label": 1}', '{"text": "a", "label": 1, "label": 2}')
    assert refusal(path) == f"line 2 of {path} has the key 'label' more than once: rename or remove one"


def test_keys_that_are_numbers(tmp_path):
    path = lines(tmp_path / "rows.jsonl", *(f'{{"0": "text {i}", "1": {i % 2}}}' for i in range(40)))
    pd.DataFrame({0: [f"text {i}" for i in range(40)], 1: [i % 2 for i in range(40)]}).to_parquet(
        tmp_path / "r.parquet"
    )
    for each in (path, tmp_path / "r.parquet"):
        assert load_file("own", each, "0", "1").classes == ("0", "1")


def test_an_index_of_pandas_is_a_column(tmp_path):
    pd.DataFrame(columns(["a", "b"])).set_index("text").to_parquet(tmp_path / "rows.parquet")
    assert load_file("own", tmp_path / "rows.parquet", "text", "label").classes == ("a", "b")


def test_json_that_is_not_an_object_a_line(tmp_path):
    path = lines(tmp_path / "rows.jsonl", "[", '{"text": "a", "label": 1}', "]")
    assert refusal(path).startswith(f"{path} holds a JSON array: expected an object a line")
    path = lines(tmp_path / "rows.jsonl", '{"text": "a", "label": 1}', "", "7")
    assert refusal(path).startswith(f"line 3 of {path} holds 7: expected an object")
    path = lines(tmp_path / "rows.jsonl", '{"text": "a", "label": 1}', '{"text": ')
    assert refusal(path).startswith(f"cannot read {path} as jsonl in UTF-8: line 2 is no JSON")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_encodings(tmp_path, ending):
    path = write(tmp_path / f"rows.{ending}", columns(["caf\u00e9", "b"]))
    text = path.read_bytes().decode().replace("\\u00e9", "\u00e9")
    path.write_bytes(text.encode("utf-8-sig"))
    assert load_file("own", path, "text", "label").classes == ("b", "caf\u00e9")
    path.write_bytes(text.encode("utf-16"))
    assert refusal(path) == f"cannot read {path} as {ending} in UTF-8: it is in UTF-16; save it as UTF-8"
    path.write_bytes(text.encode("latin-1"))
    line = 2 if ending == "csv" else 1
    assert f"in UTF-8: byte 0xe9 in line {line} is none, as in a file in Latin-1" in refusal(path)
    path.write_bytes(text.encode().replace(b"text 7", b"text\0 7"))
    assert "holds a NUL character, as in a file in UTF-16 or a damaged one; save it as UTF-8" in refusal(path)


def test_half_a_character(tmp_path):
    path = lines(tmp_path / "rows.jsonl", '{"text": "a", "label": 1}', '{"text": "\\ud800", "label": 2}')
    assert "holds half a character (a lone surrogate) in data row 2: correct it" in refusal(path)


def test_a_text_longer_than_the_reader_expects(tmp_path):
    rows = columns(["a", "b"])
    rows["text"][0] = "long " * 100_000
    task = load_file("own", write(tmp_path / "rows.csv", rows), "text", "label")
    assert max(map(len, [*task.train.texts, *task.evaluation["validation"].texts])) == 500_000
