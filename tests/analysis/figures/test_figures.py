"""Limits, colours, missing cells and words of the figures."""

import html
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.figures import theme
from analysis.library.runs import open_run
from analysis.outcomes import trajectories
from analysis.outcomes.scores import MEAN
from analysis.output.data import replay_frame
from ortho_lora.record.schema import RunInfo

TASKS = ["movies", "tweets", "trec"]
PAIR = ("movies", "trec")
ALL = Selection()
START = Selection(steps=(0, 0))  # where A has no gradient


@pytest.fixture(scope="module")
def infos(run: Path) -> dict[str, RunInfo]:
    info = open_run(run.parent, run.name).info
    assert info
    return {run.name: info}


def of_pair(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["task_i"] == PAIR[0]) & (frame["task_j"] == PAIR[1])]


Draw = Callable[..., go.Figure]
FIGURES: dict[str, tuple[Callable[[Path, Selection], pd.DataFrame], Draw]] = {
    "cosine": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, **kw)),
    "rate": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, "rate", **kw)),
    "judged": (queries.task_matrix, lambda frame, **kw: figures.task_heatmap(frame, TASKS, "cosine", **kw)),
    "layer_step": (
        lambda run, selection: queries.layer_step(run, PAIR, selection),
        lambda frame, **kw: figures.layer_step_heatmap(frame, **kw),
    ),
    "modules": (
        lambda run, selection: queries.module_layer_step(run, PAIR, selection),
        lambda frame, **kw: figures.module_heatmaps(frame, **kw),
    ),
    "blocks": (
        lambda run, selection: queries.module_layer(run, PAIR, selection),
        lambda frame, **kw: figures.block_heatmap(frame, **kw),
    ),
    "one_step": (
        lambda run, selection: queries.one_step(run, 0, replace(selection, layers=(1,), modules=("query",))).query(
            "branch == 'B'"
        ),
        lambda frame, **kw: figures.gram_heatmap(frame, TASKS, **kw),
    ),
    "windows": (
        lambda run, selection: of_pair(queries.windows(run, selection)),
        lambda frame, **kw: figures.window_intervals(frame, PAIR, **kw),
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
    "remaining": (queries.task_matrix, figures.remaining_conflicts),
    "removed": (
        queries.projection_by_pair,
        lambda frame, **kw: figures.projection_pairs(frame, TASKS, "removed", **kw),
    ),
    "replayed": (
        lambda run, _: replay_frame(run).assign(
            method=lambda frame: frame["rule"] + frame["scope"] + frame["branches"]
        ),
        lambda frame, **kw: figures.replayed_methods(frame, TASKS, "sumblockboth", **kw),
    ),
}


def heatmaps(figure: go.Figure) -> tuple[list[go.Heatmap], list[go.Heatmap]]:
    """The traces of measured cells, and those of missing ones."""
    cells = [trace for trace in figure.data if trace.type == "heatmap"]
    return [trace for trace in cells if trace.coloraxis], [trace for trace in cells if not trace.coloraxis]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_suits_its_page(run: Path, name: str, dark: bool) -> None:
    query, draw = FIGURES[name]
    figure = draw(query(run, ALL), dark=dark)
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    assert figure.layout.font.color == theme.ink(dark)
    assert figure.layout.height > 200
    figure.to_json()


@given(st.text(st.sampled_from("<>&%{}b;#/lt a") | st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_a_name_is_shown_and_not_read(name: str) -> None:
    shown = theme.label(name)
    assert html.unescape(shown) == name
    assert not {*"<>%"} & {*shown}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_an_error(run: Path, name: str) -> None:
    query, draw = FIGURES[name]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(query(run, ALL).iloc[:0])


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("losses", "replayed")])
def test_figures_of_a_start_without_gradients(run: Path, name: str) -> None:
    query, draw = FIGURES[name]
    draw(query(run, START)).to_json()


@pytest.mark.parametrize(("value", "limits"), [("cosine", (-1, 1)), ("batch", (-1, 1)), ("rate", (0, 1))])
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
        measured, [("cos_before", "A"), ("cos_after", "A"), ("cos_before", "B"), ("cos_after", "B")], strict=True
    ):
        z = np.array(trace.z, dtype=float)
        np.testing.assert_array_equal(z, z.T)
        assert np.isnan(z.diagonal()).all()
        row = frame[frame["branch"] == branch].query("task_i == 'movies' and task_j == 'trec'").iloc[0]
        assert z[0, 2] == row[column]
        assert trace.text[0][2].removeprefix("<b>").removesuffix("</b>") == f"{row[column]:z.2f}"
        assert f"mean batch cosine {column.removeprefix('cos_')} {row[column]:+.3f}" in trace.hovertext[0][2]
        low, high = (row[f"{column.removesuffix('_before')}_{end}"] for end in ("low", "high"))
        assert f"95% interval {low:+.3f} to {high:+.3f}" in trace.hovertext[0][2]
        told = column == "cos_before" and row["verdict"] in ("conflict", "aligned")
        assert trace.text[0][2].startswith("<b>") == told
        assert f"{row['verdict']}: cosine" in trace.hovertext[0][2]
    assert not missing


def test_missing_cells_are_grey_and_say_so(run: Path) -> None:
    measured, missing = heatmaps(figures.task_heatmap(queries.task_matrix(run, START), TASKS))
    off_diagonal = ~np.eye(3, dtype=bool)
    assert np.isnan(np.array(measured[0].z, dtype=float)).all()  # A before
    np.testing.assert_array_equal(~np.isnan(np.array(missing[0].z, dtype=float)), off_diagonal)
    assert {colour for _, colour in missing[0].colorscale} == {theme.unmeasured(False)}
    assert "not measured" in missing[0].hovertext[0][1]
    np.testing.assert_array_equal(~np.isnan(np.array(measured[2].z, dtype=float)), off_diagonal)  # B before


def test_diagonal_tells_what_a_task_agrees_with_itself(run: Path) -> None:
    noise = queries.noise(run, ALL)
    figure = figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, noise=noise)
    notes = [note for note in figure.layout.annotations if note.hovertext]
    assert len(notes) == 6
    row = noise.query("branch == 'A' and task == 'movies'").iloc[0]
    assert notes[0].text == f"<i>{row['same_task_cosine']:.2f}</i>"


def test_the_heatmap_of_verdicts_is_one_row(run: Path) -> None:
    measured, _ = heatmaps(figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, "cosine"))
    assert len(measured) == 2


def test_only_the_selected_branch_is_drawn(run: Path) -> None:
    frame = queries.task_matrix(run, Selection(branches=("B",)))
    measured, _ = heatmaps(figures.task_heatmap(frame, TASKS))
    assert len(measured) == 2


def test_layer_step_cells(run: Path) -> None:
    frame = queries.layer_step(run, PAIR, ALL)
    measured, missing = heatmaps(figures.layer_step_heatmap(frame))
    before = np.array(measured[0].z, dtype=float)
    expected = frame[frame["branch"] == "A"].pivot(index="layer", columns="step", values="cos_before")
    np.testing.assert_array_equal(before, expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(before), ~np.isnan(np.array(missing[0].z, dtype=float)))
    assert "not measured" in missing[0].hovertemplate
    assert len(measured[0].x) == before.shape[1] + 1  # borders
    assert list(measured[0].y) == ["0", "1"]


def test_what_projection_changes_is_after_less_before(run: Path) -> None:
    frame = queries.task_matrix(run, ALL)
    (measured, *_), _ = heatmaps(figures.task_heatmap(frame, TASKS, when=("change",)))
    row = frame.query("branch == 'A' and task_i == 'movies' and task_j == 'trec'").iloc[0]
    assert measured.z[0][2] == pytest.approx(row["cos_after"] - row["cos_before"])
    assert row["cos_change_low"] < row["cos_change"] < row["cos_change_high"]
    rates, _ = heatmaps(figures.task_heatmap(frame, TASKS, "rate", when=("change",)))
    assert {trace.coloraxis for trace in rates} == {"coloraxis2"}  # where 0, not a half, is neither


def test_clicks_on_cells_find_the_pair_and_it_is_outlined(run: Path) -> None:
    figure = figures.task_heatmap(queries.task_matrix(run, ALL), TASKS, chosen=PAIR)
    found = []
    for trace in figure.data:
        z = np.array(trace.z, dtype=float)
        for (i, one), (j, other) in product(enumerate(TASKS), repeat=2):
            if np.isnan(z[i, j]):
                assert not trace.customdata[i][j]
            else:
                found.append((one, other))
                assert trace.customdata[i][j] == tuple(sorted((one, other), key=TASKS.index))
    assert Counter(found) == {(one, other): 4 for one in TASKS for other in TASKS if one != other}
    assert {(shape.x0 + 0.5, shape.y0 + 0.5) for shape in figure.layout.shapes} == {(0, 2), (2, 0)}


def test_where_only_the_interval_is_known_the_cell_is_hatched_and_has_the_mark(run: Path) -> None:
    frame = queries.task_matrix(run, ALL)
    twins = (frame["task_i"] == "movies") & (frame["task_j"] == "trec")
    frame.loc[twins, "shares_texts"] = True
    frame.loc[twins, ["cosine", "cosine_low", "cosine_high", "verdict"]] = [np.nan, -1.0, -0.1, "conflict"]
    (measured, *_), (missing, *_) = heatmaps(figures.task_heatmap(frame, TASKS, "cosine"))
    assert np.isnan(measured.z[0][2])
    assert "▼" in missing.text[0][2]
    assert "conflict: cosine not known, 95% interval -1.000 to -0.100" in missing.hovertext[0][2]
    assert "of the batches themselves" in missing.hovertext[0][2]


def test_many_tasks_have_marks_for_numbers(run: Path) -> None:
    one = queries.task_matrix(run, Selection(branches=("B",))).iloc[:1]
    tasks = [f"{place}" for place in range(40)]
    rows = pd.concat([one] * 3).assign(task_i="0", task_j=["1", "2", "3"])
    rows["verdict"] = ["conflict", "aligned", "not enough data"]
    figure = figures.task_heatmap(rows, tasks, when=("before",))
    (measured, *_), _ = heatmaps(figure)
    assert list(measured.text[0][1:4]) == ["▼", "▲", ""]
    assert figure.layout.height < 900


def test_blocks_are_marked_where_clear_and_found_by_clicks(run: Path) -> None:
    frame = queries.module_layer(run, PAIR, ALL)
    frame["clear"], frame["verdict"] = frame["layer"] == 1, "conflict"
    figure = figures.block_heatmap(frame, chosen=("A", 1, "value"))
    measured, _ = heatmaps(figure)
    z, text = np.array(measured[0].z, dtype=float), np.array(measured[0].text)
    assert list(text[0]) == ["", ""]
    assert list(text[1]) == ["▼" if value < 0 else "▲" for value in z[1]]
    assert [block[1:] for block in measured[0].customdata[1]] == [(1, name) for name in measured[0].x]
    (shape,) = figure.layout.shapes
    assert (shape.x0 + 0.5, shape.y0 + 0.5, shape.xref) == (1, 1, "x")


def test_a_zoom_of_one_branch_is_one_of_both(run: Path) -> None:
    figure = figures.layer_step_heatmap(queries.layer_step(run, PAIR, ALL))
    for axes in (list(figure.select_xaxes()), list(figure.select_yaxes())):
        assert len(axes) == 4  # A, B before; A, B after
        assert len({axis.matches for axis in axes} - {None}) == 1
        assert [axis.matches for axis in axes].count(None) == 1  # the one that they match


def test_windows_have_their_intervals(run: Path) -> None:
    frame = of_pair(queries.windows(run, ALL))
    figure = figures.window_intervals(frame, PAIR)
    rows = frame[frame["branch"] == "A"]
    cosine = figure.data[0]
    assert cosine.name == "cosine"
    known = rows["cosine"].notna()
    for sign, end in ((1, "high"), (-1, "low")):
        width = cosine.error_y.array if end == "high" else cosine.error_y.arrayminus
        np.testing.assert_allclose((cosine.y + sign * np.array(width))[known], rows[f"cosine_{end}"][known])
    only = next(trace for trace in figure.data if trace.name == "only the cosine's interval is known")
    np.testing.assert_allclose(only.y + only.error_y.array, rows["cosine_high"][~known])


def test_one_step_has_cosines_and_norms(run: Path) -> None:
    frame = queries.one_step(run, 4, Selection(layers=(0,), modules=("value",), branches=("B",)))
    figure = figures.gram_heatmap(frame, TASKS)
    measured, _ = heatmaps(figure)
    row = frame.query("task_i == 'movies' and task_j == 'trec'").iloc[0]
    assert [trace.z[0][2] for trace in measured] == [row["cos_before"], row["cos_after"]]
    assert f"<i>‖{row['norm_i']:.2g}‖</i>" in [note.text for note in figure.layout.annotations]


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


def curves_of_two(run: Path, infos: dict[str, RunInfo]) -> pd.DataFrame:
    curves = trajectories.metric_curves(queries.metrics([run]), infos)
    return pd.concat([curves, curves.assign(series="other", value=curves["value"] + 0.5)], ignore_index=True)


def test_colours_stay_those_of_all_series(run: Path, infos: dict[str, RunInfo]) -> None:
    figure = figures.metric_trajectories(curves_of_two(run, infos), ["absent", run.name, "other"], infos)
    colours = {trace.name: trace.line.color for trace in figure.data}
    assert colours == {run.name: theme.line(1, False)["color"], "other": theme.line(2, False)["color"]}


def test_last_value_of_single_is_drawn_across(run: Path, infos: dict[str, RunInfo]) -> None:
    curves = curves_of_two(run, infos)
    figure = figures.metric_trajectories(curves, [run.name, "other"], infos, finals={"other"})
    dotted = [shape.y0 for shape in figure.layout.shapes if shape.line.dash == "dot"]
    last = curves[curves["series"] == "other"].drop_duplicates("task", keep="last").set_index("task")["value"]
    assert dotted == last.reindex([MEAN, *TASKS]).tolist()


def test_band_spans_the_seeds(run: Path, infos: dict[str, RunInfo]) -> None:
    found = trajectories.over_seeds(curves_of_two(run, infos), {run.name: "both", "other": "both"})
    figure = figures.metric_trajectories(found, ["both"], infos)
    low, high, mean = figure.data[:3]
    assert high.fill == "tonexty"
    np.testing.assert_allclose(np.array(high.y) - np.array(low.y), 0.5)
    np.testing.assert_allclose(np.array(mean.y) - np.array(low.y), 0.25)


def test_smoothed_losses_keep_the_raw_line(run: Path) -> None:
    losses = trajectories.loss_curves(queries.losses([run]))
    figure = figures.loss_trajectories(trajectories.smooth(losses, 0.9), [run.name])
    raw, smoothed = figure.data[:2]
    assert list(raw.y) == losses[losses["task"] == "movies"]["value"].tolist()
    assert np.std(smoothed.y) < np.std(raw.y)
    assert [trace.showlegend for trace in figure.data] == [False, True, False, False, False, False]


def test_seconds_are_the_axis(run: Path, infos: dict[str, RunInfo]) -> None:
    curves = trajectories.with_seconds(curves_of_two(run, infos), queries.elapsed([run]))
    figure = figures.metric_trajectories(curves, [run.name, "other"], infos, axis="seconds")
    np.testing.assert_allclose(figure.data[0].x, [0, 4, 8], rtol=1e-5)
    assert figure.layout.xaxis3.title.text == "seconds of training"


def test_series_differ_by_more_than_colour(run: Path) -> None:
    figure = figures.weights_over_steps(queries.weights(run, ALL))
    styles = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
    assert list(styles) == TASKS
    assert len({colour for colour, _ in styles.values()}) == len({dash for _, dash in styles.values()}) == 3
    assert [trace.name for trace in figure.data if trace.showlegend] == TASKS


def test_sentences(run: Path) -> None:
    matrix = queries.task_matrix(run, ALL)
    assert figures.describe(matrix) == "Verdicts on pairs and branches: 4 aligned, 2 no conflict worth the name."
    matrix.loc[0, ["verdict", "cosine"]] = ["conflict", -0.4]
    assert "Strongest conflict: movies and tweets on branch A, cosine -0.40." in figures.describe(matrix)
    for query, _ in FIGURES.values():
        assert figures.describe(query(run, ALL)).endswith(".")
        assert "nan" not in figures.describe(query(run, START))
        assert figures.describe(query(run, ALL).iloc[:0]) == "Nothing is recorded yet."
    assert "accuracy" in figures.describe(queries.metrics([run]))
    with pytest.raises(ValueError, match="no sentence"):
        figures.describe(pd.DataFrame({"x": [1]}))
