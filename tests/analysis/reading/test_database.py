"""The one database of a process: whoever asks has a catalogue of his own."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torture
from waiting import PATIENCE

from analysis.reading.connection import _database
from analysis.reading.database import Selection, ask
from ortho_lora.errors import OrthoLoraError

COSINES = "SELECT step, layer, module, branch, cos_before FROM pairs ORDER BY ALL"


@pytest.fixture(scope="module")
def run(records, tmp_path_factory) -> Path:
    return torture.write_good(records, tmp_path_factory.mktemp("runs") / "good")


def of_layer(run: Path, layer: int) -> pd.DataFrame:
    return ask(run, ["pairs"], COSINES, Selection(layers=(layer,)))


def test_threads_that_ask_at_once_do_not_meet(run):
    layers = [0, 1] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(of_layer, [run] * len(layers), layers))
    for layer, frame in zip(layers, found, strict=True):
        assert set(frame["layer"]) == {layer}
        pd.testing.assert_frame_equal(frame, found[layer])


def test_a_question_leaves_nothing_behind_also_where_it_fails(run):
    of_layer(run, 0)
    with pytest.raises(OrthoLoraError, match="cannot be read"):
        ask(run, ["pairs"], "SELECT nothing FROM pairs")
    with _database(multiprocessing.current_process().pid).cursor() as connection:
        left = {name for (name,) in connection.execute("SELECT database_name FROM duckdb_databases()").fetchall()}
    assert left == {"memory", "system", "temp"}


def test_a_forked_process_asks_too(run):
    expected = of_layer(run, 1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(of_layer, (run, 1)).get(timeout=PATIENCE)
    pd.testing.assert_frame_equal(found, expected)
