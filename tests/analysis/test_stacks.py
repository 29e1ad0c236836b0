"""A record of an encoder with a decoder: their layers stand apart, in order, under their names."""

import numpy as np
import pandas as pd
import pytest
from records import MODULES, gradient_tables, noisy_halves, run_info, status, task_info, write_rolled_run

from analysis import figures
from analysis.conflict import queries
from analysis.figures.words import describe
from analysis.output.data import frame_of
from analysis.reading.database import Selection
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.layers import numbers
from ortho_lora.record.schema import ModuleInfo

TASKS = ("news", "films")
NAMES = [*(f"encoder.{number}" for number in range(11)), "decoder.0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    tables = gradient_tables(noisy_halves(rng.standard_normal((2, 8)), (12, 12, 2, 2), 1.0, rng), TASKS)
    paths = [f"{side}.block.{number}" for side, number in (name.split(".") for name in NAMES)]
    layers = numbers([f"{path}.q" for path in paths])
    for table in tables.values():
        table["layer"] = table["layer"].map(dict(enumerate(layers)))
    modules = tuple(
        ModuleInfo(layer=layer, module=module, path=f"{path}.{module}", shapes={"A": (4, 8), "B": (8, 4)})
        for layer, path in zip(layers, paths, strict=True)
        for module in MODULES
    )
    info = run_info("both", [task_info(name) for name in TASKS], modules=modules)
    return write_rolled_run(tmp_path_factory.mktemp("runs") / "both", info, status(), tables)


def names_of(figure, axis="y"):
    return list(dict.fromkeys(figure.data[0][axis]))


def test_figures_and_words_name_them_in_order(run):
    everything, pair = Selection(), TASKS
    assert names_of(figures.layer_step_heatmap(queries.layer_step(run, pair, everything))) == NAMES
    blocks = queries.module_layer(run, pair, everything)
    assert names_of(figures.block_heatmap(blocks)) == NAMES
    assert names_of(figures.projection_layers(queries.projection_by_layer(run, everything)), "x") == NAMES
    low = blocks.dropna(subset="cos_before").nsmallest(1, "cos_before")
    assert describe(low).count("layer encoder.") + describe(low).count("layer decoder.") == 1


def test_one_of_them_is_chosen_by_its_number(run):
    encoder, decoder = (frame_of("layer-step", [run], Selection(layers=(layer,)), TASKS) for layer in (1000, 2000))
    whole = queries.layer_step(run, TASKS, Selection())
    for part, layer in ((encoder, 1000), (decoder, 2000)):
        expected = whole.loc[whole["layer"] == layer, "cos_before"].to_numpy()
        np.testing.assert_allclose(part["cos_before"], expected)
    assert not np.allclose(encoder["cos_before"], decoder["cos_before"])
    with pytest.raises(OrthoLoraError, match=r"layer 0: not in the record of both; expected one of encoder\.0, "):
        frame_of("layer-step", [run], Selection(layers=(0,)), TASKS)
    assert pd.unique(whole["layer"]).tolist() == sorted(whole["layer"].unique())
