"""Tuning budgets, choices, and grids that end too early."""

from analysis.study.fairness import at_edge, tried, warnings
from analysis.study.results import read_results
from ortho_lora.record.study import Cell, Choice


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


def test_choices_on_fewer_seeds_are_said(maker):
    for seed in (0, 1, 2):
        maker.add("single", seed, {"trec": 0.8})
        maker.add("joint", seed, {"trec": 0.7}, candidate={"rank": 4})
    maker.choices.append(Choice(cell=Cell(method="joint"), candidate={"rank": 4}, scores=(0.7, 0.6), seeds=(0,)))
    results = read_results(maker.write(tuning_seeds=(0, 1, 2)))
    expected = "Settings of joint were chosen on seed 0 of seeds 0, 1, 2: not every candidate finished the others."
    assert expected in warnings(results, tried(results))


def test_methods_that_lost_other_seeds_are_not_compared_by_means(maker):
    for seed in (0, 1, 2):
        maker.add("joint", seed, {"trec": 0.7})
        maker.add("ortho-lora", seed, {"trec": 0.7}, state="failed" if seed else "finished")
    results = read_results(maker.write())
    (said,) = warnings(results, tried(results))
    assert said.startswith("Methods finished with different seeds (joint 0, 1, 2; ortho-lora 0): compare their gains")
