"""Tuning budgets, choices, and grids that end too early."""

from analysis.study.fairness import at_edge, tried, warnings
from analysis.study.results import read_results


def test_all_that_was_tried(tuned_study):
    results = read_results(tuned_study)
    found = tried(results)
    joint = found[found["method"] == "joint"]
    assert joint["settings"].tolist() == ["learning_rate=0.0002", "learning_rate=0.0005", "learning_rate=0.001"]
    assert joint["chosen"].tolist() == joint["edge"].tolist() == [False, False, True]
    assert joint["score"].notna().all()
    ortho = found[found["method"] == "ortho-lora"]
    assert ortho["chosen"].tolist() == [False, True, False]
    assert not ortho["edge"].any()


def test_what_is_unfair_is_said(tuned_study):
    results = read_results(tuned_study)
    said = warnings(results, tried(results))
    assert len(said) == 2
    assert "single 1, joint 3" in said[0]
    assert "joint did best at the edge of its grid (learning_rate=0.001)" in said[1]


def test_equal_budgets_need_no_warning(finished):
    results = read_results(finished)
    assert warnings(results, tried(results)) == []


def test_edges_are_of_numbers():
    assert at_edge({"rank": 8}, [{"rank": 4}, {"rank": 8}, {"rank": 16}]) == ()
    assert at_edge({"rank": 4}, [{"rank": 4}, {"rank": 8}]) == ("rank",)
    assert at_edge({"rank": 4}, [{"rank": 4}]) == ()
    assert at_edge({"weights": {"a": 1}}, [{"weights": {"a": 1}}, {"weights": {"a": 2}}]) == ()
