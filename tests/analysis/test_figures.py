"""Limits, colours, missing cells and words of the figures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import figures, queries, theme
from analysis.queries import Selection
from analysis.runs import open_run
from ortho_lora.schema import RunInfo

TASKS = ["movies", "tweets", "trec"]
PAIR = ("movies", "trec")
ALL = Selection()
START = Selection(steps=(0, 0))  # where A has no gradient


@pytest.fixture(scope="module")
def infos(run: Path) -> dict[str, RunInfo]:
    info = open_run(run.parent, run.name).info
    assert info
    return {run.name: info}


Draw = Callable[..., go.Figure]
FIGURES: dict[str, tuple[Callable[[Path, Selection], pd.DataFrame], Draw]] = {
    "cosine": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, **kw)),
    "rate": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, "rate", **kw)),
    "corrected": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, "corrected", **kw)),
    "layer_step": (
        lambda run, selection: queries.layer_step(run, PAIR, selection),
        lambda frame, **kw: figures.layer_step_heatmap(frame, PAIR, **kw),
    ),
    "projection_steps": (queries.projection_over_steps, figures.projection_steps),
    "projection_pairs": (
        queries.projection_by_pair,
        lambda frame, **kw: figures.projection_pairs(frame, TASKS, **kw),
    ),
    "projection_layers": (queries.projection_by_layer, figures.projection_layers),
    "weights": (queries.weights, figures.weights_over_steps),
    "pair": (
        lambda run, selection: queries.pair_over_steps(run, PAIR, selection),
        lambda frame, **kw: figures.pair_lines(frame, PAIR, **kw),
    ),
    "losses": (lambda run, _: queries.losses([run]), figures.loss_lines),
}


def heatmaps(figure: go.Figure) -> tuple[list[go.Heatmap], list[go.Heatmap]]:
    """The traces of measured cells, and those of missing ones."""
    return (
        [trace for trace in figure.data if trace.coloraxis],
        [trace for trace in figure.data if not trace.coloraxis],
    )


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_suits_its_page(run: Path, name: str, dark: bool) -> None:
    query, draw = FIGURES[name]
    figure = draw(query(run, ALL), dark=dark)
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    assert figure.layout.font.color == theme.ink(dark)
    assert figure.layout.height > 200
    figure.to_json()


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_an_error(run: Path, name: str) -> None:
    query, draw = FIGURES[name]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(query(run, ALL).iloc[:0])


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "losses"])
def test_figures_of_a_start_without_gradients(run: Path, name: str) -> None:
    query, draw = FIGURES[name]
    draw(query(run, START)).to_json()


@pytest.mark.parametrize(("value", "limits"), [("cosine", (-1, 1)), ("corrected", (-1, 1)), ("rate", (0, 1))])
def test_colours_centre_on_neither_and_red_is_conflict(run: Path, value: str, limits: tuple[int, int]) -> None:
    axis = figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, value).layout.coloraxis
    assert (axis.cmin, axis.cmax) == limits
    colours = [colour for _, colour in axis.colorscale]
    conflict, agreement = (colours[-1], colours[0]) if value == "rate" else (colours[0], colours[-1])
    assert conflict == "rgb(103,0,31)"
    assert agreement == "rgb(5,48,97)"
    if value == "rate":
        assert dict(zip(axis.colorbar.tickvals, axis.colorbar.ticktext, strict=True))[0.5] == "50%<br>chance"


def test_task_heatmap_is_symmetric_with_an_empty_diagonal(run: Path) -> None:
    frame = queries.task_matrix(run, ALL)
    measured, missing = heatmaps(figures.task_heatmap(frame, TASKS))
    assert len(measured) == 4  # before and after, A and B
    for trace, (column, branch) in zip(
        measured, [("cos_before", "A"), ("cos_before", "B"), ("cos_after", "A"), ("cos_after", "B")], strict=True
    ):
        z = np.array(trace.z, dtype=float)
        np.testing.assert_array_equal(z, z.T)
        assert np.isnan(z.diagonal()).all()
        row = frame[frame["branch"] == branch].query("task_i == 'movies' and task_j == 'trec'").iloc[0]
        assert z[0, 2] == row[column]
        assert trace.text[0][2] == f"{row[column]:z.2f}"
        assert f"mean cosine {row[column]:+.3f}" in trace.hovertext[0][2]
    assert all(np.isnan(np.array(trace.z, dtype=float)).all() for trace in missing)


def test_missing_cells_are_grey_and_say_so(run: Path) -> None:
    measured, missing = heatmaps(figures.task_heatmap(queries.task_matrix(run, START), TASKS))
    off_diagonal = ~np.eye(3, dtype=bool)
    assert np.isnan(np.array(measured[0].z, dtype=float)).all()  # A before
    np.testing.assert_array_equal(~np.isnan(np.array(missing[0].z, dtype=float)), off_diagonal)
    assert {colour for _, colour in missing[0].colorscale} == {theme.unmeasured(False)}
    assert "not measured" in missing[0].hovertext[0][1]
    np.testing.assert_array_equal(~np.isnan(np.array(measured[1].z, dtype=float)), off_diagonal)  # B before


def test_diagonal_tells_what_a_task_agrees_with_itself(run: Path) -> None:
    noise = queries.noise(run, ALL)
    figure = figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, noise=noise)
    notes = [note for note in figure.layout.annotations if note.hovertext]
    assert len(notes) == 6
    row = noise.query("branch == 'A' and task == 'movies'").iloc[0]
    assert notes[0].text == f"<i>{row['same_task_cosine']:.2f}</i>"


def test_corrected_heatmap_is_one_row(run: Path) -> None:
    measured, _ = heatmaps(figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, "corrected"))
    assert len(measured) == 2


def test_only_the_selected_branch_is_drawn(run: Path) -> None:
    frame = queries.task_matrix(run, Selection(branches=("B",)))
    measured, _ = heatmaps(figures.task_heatmap(frame, TASKS))
    assert len(measured) == 2


def test_layer_step_cells(run: Path) -> None:
    frame = queries.layer_step(run, PAIR, ALL)
    measured, missing = heatmaps(figures.layer_step_heatmap(frame, PAIR))
    before = np.array(measured[0].z, dtype=float)
    expected = frame[frame["branch"] == "A"].pivot(index="layer", columns="step", values="cos_before")
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(np.isnan(before), ~np.isnan(np.array(missing[0].z, dtype=float)))
    assert "not measured" in measured[0].hovertext[0][0]
    assert len(measured[0].x) == before.shape[1] + 1  # borders
    assert list(measured[0].y) == ["0", "1"]


def test_directed_matrix_has_the_projected_task_in_rows(run: Path) -> None:
    frame = queries.projection_by_pair(run, ALL)
    measured, _ = heatmaps(figures.projection_pairs(frame, TASKS))
    row = frame.query("branch == 'A' and task == 'trec' and against == 'movies'").iloc[0]
    assert measured[0].z[2][0] == row["frequency"]
    assert f"removes {row['removed']:.1%}" in measured[0].hovertext[2][0]


def test_metrics_beside_the_majority(run: Path, infos: dict[str, RunInfo]) -> None:
    figure = figures.metric_lines(queries.metrics([run]), infos)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:3] == [f"<b>{task}: accuracy</b>" for task in TASKS]
    assert titles[3:] == ["majority 0.50"] * 3
    assert [trace.y[-1] for trace in figure.data] == [
        queries.metrics([run]).query("task == @task and metric == 'accuracy'")["value"].iloc[-1] for task in TASKS
    ]
    assert {shape.line.dash for shape in figure.layout.shapes} == {"dash"}
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.metric_lines(queries.metrics([run]), infos, split="test")


def test_series_differ_by_more_than_colour(run: Path) -> None:
    figure = figures.weights_over_steps(queries.weights(run, ALL))
    styles = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
    assert list(styles) == TASKS
    assert len({colour for colour, _ in styles.values()}) == len({dash for _, dash in styles.values()}) == 3
    assert [trace.name for trace in figure.data if trace.showlegend] == TASKS


def test_sentences(run: Path) -> None:
    matrix = queries.task_matrix(run, ALL)
    low = matrix.loc[matrix["cos_before"].idxmin()]
    sentence = figures.describe(matrix)
    assert f"{low['task_i']} and {low['task_j']} on branch {low['branch']}" in sentence
    for query, _ in FIGURES.values():
        assert figures.describe(query(run, ALL)).endswith(".")
        assert "nan" not in figures.describe(query(run, START))
        assert figures.describe(query(run, ALL).iloc[:0]) == "Nothing is recorded yet."
    assert "accuracy" in figures.describe(queries.metrics([run]))
    with pytest.raises(ValueError, match="no sentence"):
        figures.describe(pd.DataFrame({"x": [1]}))
