"""From a study's file to runs: which there are, how they are named, and that each is trained once."""

import pytest

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import check_run_id
from ortho_lora.record.study import Cell, Choice
from ortho_lora.study.file import StudyFile
from ortho_lora.study.plan import configure, describe, expected, meaning, reporting, run_id, tuning
from ortho_lora.training.config import load_config

RATES = [{"learning_rate": 0.001}, {"learning_rate": 0.002}]


def study(**changes):
    return StudyFile.model_validate({"base": {"tasks": ["trec", "spam"]}, "methods": ["joint", "single"]} | changes)


def test_every_method_meets_every_seed_under_every_condition():
    file = study(axes={"rank": [4, 8], "batch_size": [8, 16]})
    plan = expected(file)
    assert len(plan.uses) == len(plan.configs) == 2 * 4 * 3
    assert not tuning(file).uses
    (one,) = (
        use
        for use in plan.uses
        if (use.cell.method, use.cell.condition, use.seed) == ("single", {"rank": "8", "batch_size": "16"}, 2)
    )
    config = plan.configs[one.run_id]
    assert (config.method, config.rank, config.batch_size, config.seed) == ("single", 8, 16, 2)


def test_equal_configurations_are_one_run_of_several_uses():
    file = study(methods=["joint", "single", {"eight": {"method": "joint", "rank": 8}}], axes={"rank": [4, 8]})
    plan = expected(file)
    assert len(plan.uses) == 3 * 2 * 3
    assert len(plan.configs) == 2 * 2 * 3  # a method's settings come before those of an axis
    eight = {use.run_id for use in plan.uses if use.cell.method == "eight"}
    joint = {use.run_id for use in plan.uses if use.cell == Cell(method="joint", condition={"rank": "8"})}
    assert eight == joint


def test_what_is_said_in_other_words_is_the_same_run():
    base = load_config(overrides={"method": "pcgrad"})
    for same in (
        {"method": "ortho-lora", "scope": "model"},
        {"method": "pcgrad", "rule": "pcgrad", "threads": 4, "device": "cpu"},
        {"method": "pcgrad", "rank": 8, "learning_rate": 5e-4},
    ):
        assert run_id(load_config(overrides=same)) == run_id(base), same
    for other in ({"method": "joint"}, {"method": "pcgrad", "rank": 4}, {"method": "pcgrad", "seed": 1}):
        assert run_id(load_config(overrides=other)) != run_id(base), other
    assert run_id(load_config(overrides={"method": "joint"})) != run_id(load_config(overrides={"method": "single"}))


def test_names_do_not_change():
    """Else finished runs of studies that there are would be trained again."""
    gradvac = {"tasks": ["trec", "movies", "movies@0.7"], "rule": "gradvac", "seed": 2}
    assert run_id(load_config(overrides={"tasks": ["trec"]})) == "ortho-lora-trec-r8-lr0.0005-s0-bd083a34"
    assert run_id(load_config(overrides=gradvac)) == "gradvac-block-trec-movies-movies-flip0.7-r8-lr0.0005-s2-61893107"


def test_names_are_allowed_however_many_tasks_there_are():
    tasks = [{"name": f"{'x' * 50}{n}", "path": "a.csv", "text": "a", "label": "b"} for n in range(3)]
    for count in (1, 2, 3):
        check_run_id(run_id(load_config(overrides={"tasks": tasks[:count], "rule": "pcgrad-inplace"})))


def test_tuning_trains_candidates_and_reporting_the_chosen_ones():
    file = study(tuning={"candidates": RATES, "seeds": [0]}, pairs=["joint"])
    first = tuning(file)
    assert len(first.configs) == 2 * 2
    assert all(config.selection_share == 0.5 for config in first.configs.values())
    choices = [Choice(cell=Cell(method="joint"), candidate=RATES[1])]  # no run of `single` finished
    second = reporting(file, choices)
    assert {use.cell.method for use in second.uses} == {"joint"}
    assert all(config.learning_rate == 0.002 for config in second.configs.values())
    whole = first + second
    assert len(whole.configs) == 4 + 2  # seed 0 was trained; the only pair of two tasks is all of them
    assert {use.cell.pair for use in second.uses} == {None, ("trec", "spam")}
    assert {use.seed for use in second.uses} == {0, 1, 2}


def test_a_pair_is_trained_with_its_tasks_alone():
    file = study(
        base={"tasks": ["trec", "movies", "movies@0.5"]},
        methods=["joint", {"weighted": {"method": "joint", "loss_weights": {"trec": 2, "movies-flip0.5": 3}}}],
        pairs=["joint", "weighted"],
        seeds=[0],
    )
    pairs = {
        use.cell.pair: configure(file, use.cell, {}, 0)
        for use in expected(file).uses
        if use.cell.method == "weighted" and use.cell.pair
    }
    # A twin trains only with its original.
    assert list(pairs) == [("trec", "movies"), ("movies", "movies-flip0.5")]
    assert [(task.name, task.loss_weight) for task in pairs["trec", "movies"].tasks] == [("trec", 2), ("movies", 1)]
    assert [task.loss_weight for task in pairs["movies", "movies-flip0.5"].tasks] == [1, 3]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"base": {"rnk": 4}}, "joint: rnk: there is no such setting; nearest: 'rank'"),
        ({"axes": {"rank": [4, 0]}}, "joint at rank=0: rank: 0 given"),
        (
            {"tuning": {"methods": {"single": [{"alpha": 1}, {"alpha": -1}]}}},
            "single at alpha=-1: alpha: -1 given; input should be greater than 0",
        ),
        ({"base": {"loss_weights": {"trek": 2}}}, "joint: loss_weights: there is no task 'trek'; nearest: 'trec'"),
        ({"base": {"loss_weights": 2}}, "joint: loss_weights: 2 given, expected task names with weights"),
        ({"base": {"loss_weights": {"trec": -2}}}, "joint: tasks.0.loss_weight: -2 given"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_place(changes, sentence):
    with pytest.raises(OrthoLoraError, match=sentence):
        expected(study(**({"base": {"tasks": ["trec", "tweets"]}} | changes)))


def test_groups_are_runs_of_their_own_but_for_those_that_say_the_same():
    def named(groups):
        return run_id(load_config(overrides={"tasks": ["trec", "spam", "movies"], "method": "joint", "groups": groups}))

    one, other = named("trec + spam | movies"), named("trec | spam + movies")
    assert one.startswith("joint-grouped-trec-spam-movies-")
    assert len({one, other, named(None)}) == 3
    assert named([["movies"], ["spam", "trec"]]) == one
    assert named("trec + spam + movies") == named(None)


def test_a_pair_has_no_groups():
    base = {"tasks": ["trec", "spam", "movies"]}
    methods = [{"grouped": {"method": "joint", "groups": "trec + spam | movies"}}]
    with pytest.raises(OrthoLoraError, match="grouped on trec and spam: pairs: two tasks share one adapter: leave met"):
        expected(study(base=base, methods=methods, pairs=["grouped"]))


def test_meaning_keeps_what_is_not_set_out():
    """A setting that a later version adds, left at its default, gives no run another name."""
    assert "weight_decay" not in meaning(load_config())
    assert meaning(load_config(overrides={"weight_decay": 0.5}))["weight_decay"] == 0.5


def test_describe():
    cell = Cell(method="joint", condition={"rho": "0.5"}, pair=("trec", "spam"))
    assert describe(cell, {"rank": 4}) == "joint at rho=0.5, rank=4 on trec and spam"
