"""The Conflicts page: the measure that it opens with, and the pair that all of it follows."""

import json

import numpy as np
import pytest
from snapshots import snapshot_tables

from analysis.conflict.snapshots import snapshot_matrix
from ortho_lora.record.schema import ProbeInfo

PAIR = "movies + trec"


def figures(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def words(test):
    return "\n".join(element.value for element in [*test.markdown, *test.caption, *test.info]).replace("\\", "")


@pytest.fixture
def add_clear_run(records, runs_dir):
    """A run whose gradients are clear of their noise: the first two of its tasks pull against each other."""

    def add(name="clear", tasks=3, **fields):
        rng = np.random.default_rng(0)
        names = [f"task{place}" for place in range(tasks)]
        true = rng.standard_normal((tasks, 8))
        true[1] = -true[0]
        tables = records.gradient_tables(records.noisy_halves(true, (16, 2, 2, 2), 0.8, rng), names)
        info = records.run_info(name, [records.task_info(task) for task in names], **fields)
        return records.write_run(runs_dir / name, info, records.status(), tables)

    return add


def test_opens_on_the_cosine_that_the_verdict_is_on(add_clear_run, open_page):
    add_clear_run()
    test = open_page("conflicts")
    assert test.button_group(key="view").value == "Cosine"
    assert "without batch [noise]" in words(test)
    assert len([trace for trace in figures(test)[0]["data"] if trace.get("coloraxis")]) == 2  # branches


def test_pure_noise_is_not_enough_data(add_run, open_page):
    add_run("only")
    assert "not enough data: the cosine lies within" in words(open_page("conflicts"))


def test_conflict_rate_says_what_chance_gives(add_run, open_page):
    add_run("only")
    test = open_page("conflicts")
    test.button_group(key="view").set_value("Share negative").run()
    assert "by chance" in words(test)


def test_begins_with_the_strongest_conflict_and_says_it_in_words(add_clear_run, open_page):
    add_clear_run()
    test = open_page("conflicts")
    assert test.selectbox(key="pair").value == "task0 + task1"
    assert "conflict, strong: cosine" in words(test)


def test_everything_follows_the_pair_in_the_address(add_run, open_page):
    add_run("only")
    test = open_page("conflicts", pair=PAIR)
    assert test.selectbox(key="pair").value == PAIR
    matrix, windows, steps = figures(test)
    assert {(shape["x0"] + 0.5, shape["y0"] + 0.5) for shape in matrix["layout"]["shapes"] if "x0" in shape} == {
        (0, 2),
        (2, 0),
    }
    assert "movies with itself" in [trace.get("name") for trace in windows["data"]]
    other = figures(open_page("conflicts", pair="tweets + trec"))
    assert (other[1], other[2]) != (windows, steps)


def test_follows_the_selection(add_run, open_page):
    add_run("only")
    test = open_page("conflicts", pair=PAIR)
    before = figures(test)
    test.slider(key="steps").set_value((4, 8)).run()
    assert not test.exception
    assert all(one != other for one, other in zip(figures(test), before, strict=True))


def test_batches_are_shown_as_they_were_before_projection_until_asked(add_clear_run, open_page):
    add_clear_run(tasks=14)
    test = open_page("conflicts", view="Batch cosine")
    assert not test.exception
    assert "▼" in words(test)
    for moment, maps in (("Before", 2), ("All", 6)):
        test.button_group(key="moment").set_value(moment).run()
        assert len([trace for trace in figures(test)[0]["data"] if trace.get("coloraxis")]) == maps


def test_a_snapshot_comes_first_and_the_steps_when_asked(add_run, open_page, unfold):
    add_run("looked", snapshots=(0, 12))
    test = open_page("conflicts")
    assert len(figures(test)) == 2
    test = unfold(test, "steps")
    assert not test.exception
    assert test.selectbox(key="pair").value == "movies + tweets"
    said = words(test)
    assert said.index("[snapshot](learn#snapshot)") < said.index("what the rule saw")
    assert "Whole model: aligned, strong: cosine +" in said  # by the last one
    first, over, steps, *_ = figures(test)
    titles = [note["text"] for note in first["layout"]["annotations"]]
    assert [title for title in titles if "model" in title or "branch" in title] == [
        "<b>whole model</b>", "<b>branch A</b>", "<b>branch B</b>",
    ]  # fmt: skip
    assert {trace.get("name") for trace in over["data"]} >= {"whole model", "branch A", "branch B"}
    assert "branch A, before" in json.dumps(steps["layout"])
    assert test.button_group(key="view").options == ["Batch cosine", "Share negative"]


@pytest.mark.parametrize("chosen", [{"view": "Share negative"}, {"moment": "All"}, {"steps": ["4", "8"]}])
def test_a_link_to_what_steps_say_finds_it_open(add_run, open_page, chosen):
    add_run("looked", snapshots=(0, 12))
    test = open_page("conflicts", **chosen)
    assert not test.exception
    assert len(figures(test)) == 4


def test_one_snapshot_and_one_metric_can_be_chosen(add_run, open_page):
    run = add_run("looked", snapshots=(0, 12))
    test = open_page("conflicts", snapshot="0", metric="plain")
    found = snapshot_matrix(run, metric="plain", at=0).iloc[0]
    assert found["verdict"] == "conflict"
    sentence = f"Whole model: conflict, strong: cosine {found['cosine']:+.2f}"
    assert sentence in words(test)
    test.button_group(key="metric").set_value("as AdamW scales").run()
    assert sentence not in words(test)
    assert "Whole model: conflict" in words(test)


def test_a_record_of_snapshots_alone_has_no_story_of_steps(runs_dir, records, open_page):
    tasks = ("movies", "tweets", "trec")
    info = records.run_info("probe", [records.task_info(task) for task in tasks], probe=ProbeInfo(seed=0))
    records.write_run(runs_dir / "probe", info, records.status(), snapshot_tables((0,), tasks, (0, 1)))
    for page, said in (
        ("conflicts", "Whole model: conflict"),
        ("layers", "Where, without noise"),
        ("diagnosis", "1 of 3 pairs conflict"),
        ("projection", "Only snapshots are recorded here"),
        ("start", "movies and tweets: Whole model: conflict, strong"),
    ):
        test = open_page(page)
        assert not test.exception, page
        assert said in words(test) + "".join(one.value for one in [*test.subheader, *test.error]), page
        assert "What the rule saw" not in "".join(one.value for one in [*test.subheader, *test.header]), page


def test_who_chooses_steps_sees_what_they_say(add_run, open_page):
    add_run("looked", snapshots=(0, 12))
    test = open_page("conflicts")
    assert len(figures(test)) == 2
    test.slider(key="steps").set_value((4, 8)).run()
    assert len(figures(test)) == 4
