"""The page on metrics: what is equal, what is put together, and what is kept in the address."""

import json

import pytest


def figures(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def words(test):
    return "\n".join(element.value for element in [*test.markdown, *test.info, *test.caption])


def names(spec):
    return list(dict.fromkeys(trace["name"] for trace in spec["data"] if trace.get("name")))


def axes(spec):
    return {axis["title"].get("text") for key, axis in spec["layout"].items() if key.startswith("xaxis")} - {None}


@pytest.fixture
def add_seeds(add_run):
    """Runs of ortho-lora, joint and single with two seeds each, of the same settings."""
    for seed in (0, 1):
        for method, rule in (("ortho-lora", "pcgrad"), ("joint", "sum"), ("single", "sum")):
            config = {"seed": seed, "method": method, "rank": 8}
            add_run(f"{method}-{seed}", method=method, rule=rule, seed=seed, config=config, created=1e9 - seed)


@pytest.mark.parametrize(
    ("steps", "metrics", "losses"),
    [(["3", "7"], [2.5, 7.5], [2.5, 7.5]), (["3", "11"], [2.5, 12.5], [2.5, 11.5]), (["0", "11"], None, None)],
)
def test_figures_zoom_to_the_steps_of_all_pages_and_keep_the_others(steps, metrics, losses, add_run, open_page, unfold):
    add_run("only")
    test = open_page("metrics", steps=steps)
    assert not test.exception
    assert test.slider(key="steps").value == tuple(map(int, steps))
    for spec, seen in zip(figures(test), (metrics, losses), strict=True):
        shown = {key: axis.get("range") for key, axis in spec["layout"].items() if key.startswith("xaxis")}
        assert list(shown.values()) == [seen] * len(shown)
    assert set(unfold(test, "metrics").dataframe[0].value["step"]) == {0, 12}


def test_seconds_are_not_zoomed_by_steps(add_run, open_page):
    add_run("only")
    test = open_page("metrics", axis="Seconds", steps=["3", "7"])
    assert [slider.key for slider in test.slider] == ["smoothing"]
    assert all("range" not in spec["layout"]["xaxis"] for spec in figures(test))


def test_seconds_from_the_address(add_run, open_page):
    add_run("only")
    assert axes(figures(open_page("metrics"))[0]) == {"step"}
    test = open_page("metrics", axis="Seconds")
    assert not test.exception
    assert [axes(spec) for spec in figures(test)] == [{"seconds of training"}] * 2


def test_smoothing_keeps_the_raw_line(add_run, open_page):
    add_run("only")
    smoothed = figures(open_page("metrics"))[1]["data"]
    raw = figures(open_page("metrics", smoothing="0.0"))[1]["data"]
    assert len(smoothed) == 2 * len(raw)


def test_every_recorded_metric_can_be_chosen(add_run, open_page):
    add_run("only")
    test = open_page("metrics")
    assert test.selectbox(key="metric").options == ["primary", "accuracy", "loss"]
    test.selectbox(key="metric").set_value("loss").run()
    titles = [note["text"] for note in figures(test)[0]["layout"]["annotations"]]
    assert "<b>movies: loss</b>" in titles


def test_seeds_are_put_together_where_there_are_several(add_seeds, open_page):
    alone = open_page("metrics", run="ortho-lora-0")
    assert alone.toggle(key="seeds").disabled
    query = {"run": "ortho-lora-0", "compare": ["ortho-lora-1", "single-0"]}
    apart = open_page("metrics", **query)
    assert names(figures(apart)[0]) == ["ortho-lora-0", "ortho-lora-1", "single-0"]
    together = open_page("metrics", **query, seeds="true")
    assert names(figures(together)[0]) == names(figures(together)[1]) == ["ortho-lora, 2 seeds", "single-0"]
    assert "lowest to the highest seed" in words(together)
    assert together.dataframe[0].value["run"].tolist() == ["ortho-lora-0", "ortho-lora-1", "single-0"]


def test_single_ends_in_a_dotted_line(add_seeds, open_page):
    def dashes(test):
        return {shape["line"]["dash"] for shape in figures(test)[0]["layout"]["shapes"]}

    assert "dot" not in dashes(open_page("metrics", run="ortho-lora-0"))
    assert "dot" in dashes(open_page("metrics", run="ortho-lora-0", compare="single-0"))


def test_no_gap_is_told_in_words(add_seeds, open_page):
    test = open_page("metrics", run="ortho-lora-0")
    found = test.dataframe[-1].value
    assert found["recovered"].isna().all()
    assert set(found["in words"]) == {"unknown: fewer than three seeds do not tell whether there is a gap to recover"}


def test_without_runs_to_compare_there_is_no_gap(add_run, open_page):
    add_run("only")
    assert "There are no finished runs of" in words(open_page("metrics"))
