"""The graph of tasks: who harms whom, how much, and how sure."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.figures import theme
from analysis.figures.graph import MOST, UNSURE_UP_TO

EFFECTS = {("a", "b"): (0.02, "harms"), ("b", "a"): (-0.01, "helps"), ("a<", "b"): (0.001, "not sure")}


def matrix(effects=EFFECTS, tasks=("a", "b", "a<")):
    rows = []
    for target, source in itertools.product(tasks, repeat=2):
        nats, verdict = effects.get((source, target), (np.nan, "not sure"))
        rows.append({"step": 1, "source": source, "target": target, "nats": nats, "verdict": verdict})
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame["nats"] - 0.005, high=frame["nats"] + 0.005)


def places(figure, tasks):
    nodes = next(trace for trace in figure.data if trace.mode == "markers" and trace.marker.size == 12)
    return dict(zip(tasks, zip(nodes.x, nodes.y, strict=True), strict=True))


def lines(figure):
    return [trace for trace in figure.data if trace.mode == "lines"]


def near(point, place):
    return np.hypot(*np.subtract(point, place)) < 0.35


def test_an_arrow_leads_from_source_to_target_in_the_colour_of_what_it_does():
    figure = figures.transfer_graph(matrix())
    at = places(figure, ("a", "b", "a<"))
    by_colour = {}
    for trace in lines(figure):
        if trace.line.dash == "solid":
            by_colour[trace.line.color] = trace
    harm, help_ = by_colour[theme.against(dark=False)], by_colour[theme.along(dark=False)]
    assert near((harm.x[0], harm.y[0]), at["a"])
    assert near((harm.x[-1], harm.y[-1]), at["b"])
    assert near((help_.x[0], help_.y[0]), at["b"])
    assert harm.line.width > help_.line.width
    heads = [trace for trace in figure.data if trace.marker.symbol == "arrow"]
    assert len(heads) == 3
    ends = [(head.x[-1], head.y[-1]) for head in heads if head.marker.color == theme.against(dark=False)]
    assert any(near(end, at["b"]) for end in ends)


def test_opposite_arrows_do_not_lie_on_each_other():
    effects = {("a", "b"): (0.02, "harms"), ("b", "a"): (0.02, "harms")}
    one, other = lines(figures.transfer_graph(matrix(effects, ("a", "b"))))
    middle = [np.array([trace.x[12], trace.y[12]]) for trace in (one, other)]
    assert np.hypot(*(middle[0] - middle[1])) > 0.2


def test_what_is_not_sure_is_dotted_and_left_out_among_many():
    few = figures.transfer_graph(matrix())
    assert [trace.line.dash for trace in lines(few)].count("dot") == 1
    tasks = tuple(map(str, range(UNSURE_UP_TO + 1)))
    effects = dict.fromkeys(itertools.permutations(tasks, 2), (0.001, "not sure")) | {("0", "1"): (0.02, "harms")}
    (only,) = lines(figures.transfer_graph(matrix(effects, tasks)))
    assert only.line.dash == "solid"


def test_of_very_many_the_largest_are_drawn():
    tasks = tuple(map(str, range(12)))
    pairs = list(itertools.permutations(tasks, 2))
    effects = {pair: (0.001 * (place + 1), "harms") for place, pair in enumerate(pairs)}
    figure = figures.transfer_graph(matrix(effects, tasks))
    assert len(lines(figure)) == MOST < len(pairs)
    targets = next(trace for trace in figure.data if trace.customdata is not None)
    assert {tuple(pair) for pair in targets.customdata} == set(pairs[-MOST:])


def test_an_arrow_says_all_of_it_and_takes_clicks():
    figure = figures.transfer_graph(matrix())
    targets = next(trace for trace in figure.data if trace.customdata is not None)
    said = dict(zip(map(tuple, targets.customdata), targets.hovertext, strict=True))
    assert said["a", "b"] == "<b>a</b> on <b>b</b><br>+20.00 mnat a step, 95% interval +15.00 to +25.00<br>harms"
    assert said["a<", "b"].startswith("<b>a&lt;</b> on <b>b</b>")


def test_cosines_have_no_direction_and_conflict_is_red():
    frame = pd.DataFrame(
        {
            "branch": ["both", "both", "A"], "task_i": ["a", "a", "a"], "task_j": ["b", "c", "b"],
            "cosine": [-0.4, 0.2, 0.9], "verdict": ["conflict", "not enough data", "aligned"],
        }
    )  # fmt: skip
    figure = figures.cosine_graph(frame)
    assert not [trace for trace in figure.data if trace.marker.symbol == "arrow"]
    drawn = {(trace.line.color, trace.line.dash) for trace in lines(figure)}
    assert drawn == {(theme.against(dark=False), "solid"), (theme.along(dark=False), "dot")}


def test_the_chosen_pair_is_outlined():
    colours = [trace.line.color for trace in lines(figures.transfer_graph(matrix(), chosen=("b", "a")))]
    assert colours.count(theme.CHOSEN) == 2


@pytest.mark.parametrize("draw", [figures.transfer_graph, figures.cosine_graph])
def test_nothing_is_drawn_of_nothing(draw):
    with pytest.raises(ValueError, match="no rows"):
        draw(matrix()[:0])
