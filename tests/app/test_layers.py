"""The Layers page: from the layers to one block and one step."""

import json

PAIR = "movies + trec"


def figures(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def words(test):
    return "\n".join(element.value for element in [*test.markdown, *test.caption, *test.info])


BLOCK = "value B, layer 1"


def test_goes_from_layers_to_one_step_when_a_block_is_chosen(add_run, open_page):
    add_run("only")
    test = open_page("layers", pair=PAIR)
    assert not test.exception
    assert len(figures(test)) == 2  # layers, blocks
    test.selectbox(key="block").set_value(BLOCK).run()
    assert not test.exception
    assert len(figures(test)) == 4  # history, step
    assert "Step 11" in words(test)


def test_each_kind_of_module_is_drawn_when_asked(add_run, open_page, unfold):
    add_run("only")
    test = unfold(open_page("layers", pair=PAIR), "modules")
    assert not test.exception
    assert len(figures(test)) == 3


def test_block_and_step_in_the_address_are_shown(add_run, open_page):
    add_run("only")
    test = open_page("layers", pair=PAIR, block=BLOCK, step="3")
    assert test.selectbox(key="block").value == BLOCK
    assert test.number_input(key="step").value == 3
    _, blocks, history, _ = figures(test)
    (border,) = blocks["layout"]["shapes"]
    assert (border["x0"] + 0.5, border["y0"] + 0.5) == (1, 1)
    assert 3 in [shape["x0"] for shape in history["layout"]["shapes"]]


def test_only_the_selected_layers_are_drawn(add_run, open_page, unfold):
    add_run("only")
    test = unfold(open_page("layers", block="value B, layer 0"), "modules")
    test.multiselect(key="layers").select(1).run()
    assert not test.exception
    assert len(figures(test)) == 3
    for figure in figures(test):
        assert {label for trace in figure["data"] if trace["type"] == "heatmap" for label in trace["y"]} == {"1"}
    assert test.selectbox(key="block").value is None  # it is of a layer that is not
    assert sorted(test.selectbox(key="block").options) == [
        "query A, layer 1",
        "query B, layer 1",
        "value A, layer 1",
        BLOCK,
    ]


def test_a_block_or_step_that_is_not_there_is_forgotten(add_run, open_page):
    add_run("only")
    test = open_page("layers", block="gone A, layer 9", step="999")
    assert not test.exception
    assert test.selectbox(key="block").value is None
    test.selectbox(key="block").set_value(BLOCK).run()
    assert test.number_input(key="step").value == 11


def test_difference_is_drawn_for_both_branches(add_run, open_page):
    add_run("only")
    test = open_page("layers")
    test.button_group(key="moment").set_value("Difference").run()
    titles = [note["text"] for note in figures(test)[0]["layout"]["annotations"]]
    assert titles == ["<b>branch A, difference</b>", "<b>branch B, difference</b>"]


def test_no_more_cells_than_a_browser_bears():
    from app.views.layers import MOST_CELLS, _bins

    for rows in (1, 12, 2 * 32, 3 * 2 * 80, 2 * 32 * 7, 200_000):
        assert _bins(rows, 120) >= 1
        assert _bins(rows, 120) * rows <= max(MOST_CELLS, rows)


def test_what_a_snapshot_says_stands_above_the_steps(add_run, open_page):
    add_run("looked", snapshots=(0, 12))
    test = open_page("layers")
    assert not test.exception
    layers, blocks = figures(test)[:2]
    assert len(figures(test)) == 2 + 2
    text = [mark for trace in layers["data"] for row in trace.get("text") or [] for mark in row]
    assert {"▼", "▲"} <= set(text)
    assert {label for trace in blocks["data"] if trace["type"] == "heatmap" for label in trace["x"]} == {
        "query",
        "value",
    }
    assert [header.value for header in test.header] == ["What the rule saw, step by step"]
