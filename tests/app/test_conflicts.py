"""The Conflicts page: the measure that it opens with, and the pair that all of it follows."""

import json

import numpy as np
import pytest

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


def test_many_tasks_are_shown_one_moment_at_a_time(add_clear_run, open_page):
    add_clear_run(tasks=14)
    test = open_page("conflicts", view="Batch cosine")
    assert not test.exception
    assert test.button_group(key="moment").value == "Before"
    assert "▼" in words(test)
    assert len([trace for trace in figures(test)[0]["data"] if trace.get("coloraxis")]) == 2
