"""The figures of a study: which there are, and what they say."""

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.study.drawing import drawings
from analysis.study.findings import find


@pytest.fixture(scope="module")
def dialled(studies, records, tmp_path_factory):
    """Findings over two axes."""
    maker = studies.Maker(records, tmp_path_factory.mktemp("made") / "grid")
    for rank in ("4", "8"):
        studies.dialled(maker, seeds=(0, 1, 2) if rank == "4" else (0,), rank=rank)
    return find(maker.write(axes={"rho": studies.DIAL, "rank": ("4", "8")}))


def test_two_axes_have_curves_grids_and_a_figure_for_each_condition(dialled):
    names = set(drawings(dialled))
    assert {"over rho at rank=4", "over rho at rank=8", "over rank at rho=0.0"} <= names
    assert {"gain of single", "gain of ortho-lora"} <= names
    assert {"gains at rho=1.0, rank=8", "cost at rho=0.0, rank=4"} <= names


@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_can_be_drawn(dialled, dark):
    for draw in drawings(dialled).values():
        assert draw(dark=dark).data


def test_gains_are_in_points_and_filled_where_clear(finished):
    found = find(finished)
    figure = figures.method_gains(found.gains, found.methods, found.baseline)
    single, ortho = figure.data
    assert single.x[0] == pytest.approx(100 * found.gains["gain"].iloc[0])
    assert set(single.marker.symbol) == {"circle"}
    assert list(ortho.marker.symbol) == ["diamond", *["diamond-open"] * 3]


def test_colours_follow_the_study_and_not_what_has_finished(finished):
    found = find(finished)
    alone = found.gains[found.gains["method"] == "ortho-lora"]
    both, one = (figures.method_gains(rows, found.methods, found.baseline) for rows in (found.gains, alone))
    assert both.data[1].marker.color == one.data[0].marker.color


def test_the_dial_is_drawn_to_scale_and_names_in_their_order(dialled):
    rows = dialled.over_axes[dialled.over_axes["rank"] == "4"]
    figure = figures.axis_curves(rows, "rho", ["0.0", "0.5", "1.0"], dialled.methods, "joint")
    assert list(figure.data[0].x) == [0.0, 0.5, 1.0]
    named = rows.assign(rho=rows["rho"].map({"0.0": "none", "0.5": "half", "1.0": "all"}))
    figure = figures.axis_curves(named, "rho", ["all", "half", "none"], dialled.methods, "joint")
    assert list(figure.layout.xaxis.ticktext) == ["all", "half", "none"]


def test_a_grid_says_where_it_matters(dialled):
    rows = dialled.over_axes[dialled.over_axes["method"] == "ortho-lora"]
    figure = figures.gain_grid(rows, ("rho", "rank"), (("0.0", "0.5", "1.0"), ("4", "8")))
    heat = figure.data[0]
    assert np.asarray(heat.z) == pytest.approx(np.array([[0, 0], [2.5, 2.5], [5, 5]]), abs=1e-6)
    assert [*heat.text[2]] == ["<b>+5.0</b>", "+5.0"]  # one seed is never clear
    assert heat.text[0][0] == "+0.0"


def test_what_may_be_noise_stays_pale(dialled):
    """A gain of 0.6 points, known to a point or two, may not have the darkest of all colours."""
    rows = dialled.over_axes[dialled.over_axes["method"] == "ortho-lora"]
    rows = rows.assign(gain=0.006, low=-0.007, high=0.019)
    heat = figures.gain_grid(rows, ("rho", "rank"), (("0.0", "0.5", "1.0"), ("4", "8"))).data[0]
    assert heat.zmax == pytest.approx(1.9)


def test_transfer_is_red_where_it_hurts(paired_study):
    found = find(paired_study)
    tasks = ["movies", "tweets", "trec", "spam"]
    heat = figures.transfer_heatmap(found.transfer, tasks).data[0]
    assert heat.z[2][3] == pytest.approx(-7)
    assert np.isnan(np.asarray(heat.z, dtype=float).diagonal()).all()
    assert heat.zmin == -heat.zmax
    named = figures.conflict_and_transfer(found.pair_conflicts).data[0]
    assert named.text[0] == "movies – tweets"


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.method_gains(pd.DataFrame(columns=["task", "method"]), ["joint"], "joint")
