"""The heatmap of transfer: what is sure is in colour, red harms, and names are shown as they are."""

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.figures import theme

TASKS = ["a<b", "movies"]


@pytest.fixture
def matrix() -> pd.DataFrame:
    nats = np.array([-0.03, 0.002, np.nan, -0.01])
    columns = {"step": 4, "source": TASKS * 2, "target": np.repeat(TASKS, 2), "nats": nats}
    columns |= {"low": nats - 0.001, "high": nats + 0.001, "pull": 2 * nats, "crowding": -nats}
    for part in ("pull", "crowding"):
        columns |= {f"{part}_low": columns[part] - 0.015, f"{part}_high": columns[part] + 0.015}
    columns |= {"share": [-1.0, 0.2, np.nan, np.nan], "q": 0.01}
    columns["verdict"] = ["helps", "harms", "not sure", "not sure"]
    return pd.DataFrame(columns)


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap" and trace.coloraxis]


def test_what_is_not_sure_is_pale(matrix):
    nats, pull, crowding = heatmaps(figures.effect_heatmap(matrix))
    np.testing.assert_allclose(nats.z, [[-30, 2], [np.nan, -1.5]])  # mnat
    np.testing.assert_allclose(pull.z, [[-60, 0.6], [np.nan, -20]])
    np.testing.assert_allclose(crowding.z, [[30, -0.3], [np.nan, 1.5]])
    assert nats.text.tolist() == [["<b>-30.0</b>", "<b>+2.0</b>"], ["", "-10.0"]]


def test_red_harms_and_a_task_on_itself_does_not_outshine_others(matrix):
    figure = figures.effect_heatmap(matrix)
    axis = figure.layout.coloraxis
    assert axis.colorscale[-1][1] == "rgb(103,0,31)"
    assert (axis.cmin, axis.cmax) == (-2, 2)
    assert theme.HARM == "RdBu_r"


def test_a_cell_says_all_of_it_and_takes_clicks(matrix):
    figure = figures.effect_heatmap(matrix, parts=("nats",))
    (trace,) = heatmaps(figure)
    assert "a&lt;b" in trace.hovertext[0][1]
    assert "+2.00 mnat a step, 95% interval +1.00 to +3.00<br>harms, +20% of its own progress" in trace.hovertext[0][1]
    missing = figure.data[1]  # over it
    both = np.where(np.isnan(np.array(trace.z, dtype=float)), missing.customdata, trace.customdata)
    assert both.tolist() == [[(s, t) for s in TASKS] for t in TASKS]


def test_nothing_is_drawn_of_nothing(matrix):
    with pytest.raises(ValueError, match="no rows"):
        figures.effect_heatmap(matrix[:0])


def test_progress_in_each_mixture_has_its_interval():
    frame = pd.DataFrame({"target": TASKS, "nats": [-2e-5, 1e-5], "low": [-3e-5, 0.0], "high": [-1e-5, 4e-5]})
    one, other = figures.progress_dots({"this run's": frame, "alone": frame}).data
    np.testing.assert_allclose(one.x, [-20, 10])  # µnat
    np.testing.assert_allclose(one.error_x.array, [10, 30])
    np.testing.assert_allclose(one.error_x.arrayminus, [10, 10])
    assert (one.name, other.name) == ("this run's", "alone")
    assert not set(one.y) & set(other.y)


def test_over_the_run_panels_share_their_colours(matrix):
    over = pd.concat([matrix.assign(step=step, nats=matrix["nats"] * (1 + step)) for step in range(9)])
    figure = figures.effects_over_run(over, most=3)
    first, *_, last = panels = heatmaps(figure)
    assert [title.text for title in figure.layout.annotations] == ["<b>step 0</b>", "<b>step 4</b>", "<b>step 8</b>"]
    assert {panel.coloraxis for panel in panels} == {"coloraxis"}
    np.testing.assert_allclose(first.z, [[-30, 2], [np.nan, -1.5]])
    np.testing.assert_allclose(last.z, [[-270, 18], [np.nan, -13.5]])
    assert figure.layout.coloraxis.cmax == pytest.approx(18)  # of tasks on others


def test_the_strip_marks_layers_with_a_verdict():
    frame = pd.DataFrame(
        {
            "branch": ["A", "A", "B", "B"], "layer": [0, 1, 0, 1], "cosine": [-0.5, 0.4, np.nan, 0.1],
            "low": [-0.6, 0.2, np.nan, -0.1], "high": [-0.4, 0.6, np.nan, 0.3], "clear": [True, True, False, False],
        }
    )  # fmt: skip
    figure = figures.layer_strip(frame)
    (strip,) = heatmaps(figure)
    np.testing.assert_allclose(strip.z, [[-0.5, 0.4], [np.nan, 0.1]])
    assert strip.text.tolist() == [["▼", "▲"], ["", ""]]
    missing = figure.data[1]  # over it
    assert missing.z[1][0] == 1
    assert missing.hovertext[1][0].endswith("not measured")
    assert figure.layout.coloraxis.cmax == pytest.approx(0.5)
    assert "mean batch cosine -0.500" in figures.layer_strip(frame.assign(low=np.nan)).data[0].hovertext[0][0]


def test_of_many_tasks_those_that_help_each_other_stand_side_by_side():
    names = [f"{kind}{number}" for number in range(7) for kind in "ab"]  # two kinds, mixed
    rows = [{"source": one, "target": other} for other in names for one in names]
    frame = pd.DataFrame(rows)
    same = frame["source"].str[0] == frame["target"].str[0]
    frame = frame.assign(step=1, nats=np.where(same, -0.01, 0.01), verdict="not sure", share=np.nan)
    frame = frame.assign(low=frame["nats"] - 0.001, high=frame["nats"] + 0.001)
    (shown,) = heatmaps(figures.effect_heatmap(frame, parts=("nats",)))
    assert list(shown.x) == list(shown.y)
    kinds = "".join(name[0] for name in shown.x)
    assert kinds in ("aaaaaaabbbbbbb", "bbbbbbbaaaaaaa")
    np.testing.assert_allclose(np.sign(shown.z[:7, :7]), -1)
    np.testing.assert_allclose(np.sign(shown.z[:7, 7:]), 1)
