"""Which candidate is chosen, and from what."""

import pytest
from studies import record

from ortho_lora.study.choose import Outcome, choose, common, read_outcome, scores
from ortho_lora.study.file import StudyFile
from ortho_lora.study.plan import tuning
from ortho_lora.training.config import load_config


def outcome(metric="accuracy", **values):
    metrics = dict.fromkeys(values, metric) if isinstance(metric, str) else dict(zip(values, metric, strict=True))
    return Outcome(metrics, values)


def test_the_score_is_the_mean_over_tasks_and_seeds():
    assert scores([[outcome(a=0.5, b=0.7), outcome(a=0.7, b=0.9)], [outcome(a=0.1, b=0.3)] * 2]) == pytest.approx(
        [0.7, 0.2]
    )


def test_candidates_are_compared_on_the_seeds_that_all_finished():
    """The first lost the two hard seeds; on the one that both have it is worse."""
    survivor = [outcome(a=0.8), None, None]
    steady = [outcome(a=0.9), outcome(a=0.6), outcome(a=0.6)]
    assert common([survivor, steady]) == (0,)
    assert scores([survivor, steady]) == [0.8, 0.9]


def test_a_candidate_that_never_finished_is_not_waited_for():
    assert scores([[None, None], [outcome(a=0.5), outcome(a=0.7)]]) == [None, pytest.approx(0.6)]
    assert scores([[None], [None]]) == [None, None]
    assert common([[None], [None]]) == ()


def test_without_a_seed_in_common_those_with_the_fewest_are_not_compared():
    one, two = [outcome(a=0.9), None, None], [None, outcome(a=0.5), outcome(a=0.7)]
    assert scores([one, two]) == [None, pytest.approx(0.6)]
    assert scores([one, [None, outcome(a=0.5), None]]) == [0.9, None]


def test_less_is_better_where_the_metric_is_an_error():
    found = scores([[outcome("rmse", a=2.0)], [outcome("rmse", a=1.0)]])
    assert found[1] > found[0]


def test_where_units_mix_improvements_over_the_first_are_told():
    found = scores(
        [
            [None],
            [outcome(["rmse", "accuracy"], a=100.0, b=0.5)],
            [outcome(["rmse", "accuracy"], a=90.0, b=0.5)],  # 10% better
            [outcome(["rmse", "accuracy"], a=101.0, b=0.6)],  # 1% worse, 20% better
        ]
    )
    assert found == [None, 0, pytest.approx(0.05), pytest.approx(0.095)]


@pytest.fixture
def file():
    return StudyFile.model_validate(
        {
            "base": {"tasks": ["trec", "spam"]},
            "methods": ["joint", "single"],
            "tuning": {"methods": {"joint": [{"rank": 2}, {"rank": 4}, {"rank": 8}]}, "seeds": [0, 1]},
        }
    )


def test_the_best_is_chosen_and_of_equals_the_earlier(file):
    uses = tuning(file).uses
    by_rank = {2: 0.5, 4: 0.8, 8: 0.8}
    found = {use.run_id: outcome(trec=by_rank[use.candidate["rank"]], spam=0.5) for use in uses}
    (choice,) = choose(file, uses, found)
    assert (choice.cell.method, choice.candidate) == ("joint", {"rank": 4})
    assert choice.scores == pytest.approx((0.5, 0.65, 0.65))
    assert choice.seeds == (0, 1)
    assert choose(file, uses, dict.fromkeys(found)) == []


def test_two_of_three_seeds_lost_do_not_win(file):
    """Rank 8 finished its easy seed alone."""
    uses = tuning(file).uses
    by_rank = {2: {0: 0.6, 1: 0.4}, 4: {0: 0.7, 1: 0.5}, 8: {0: 0.65}}
    found = {
        use.run_id: outcome(trec=value, spam=value)
        for use in uses
        if (value := by_rank[use.candidate["rank"]].get(use.seed))
    }
    (choice,) = choose(file, uses, found)
    assert (choice.candidate, choice.seeds) == ({"rank": 4}, (0,))


def test_only_the_selection_split_is_read_and_no_twin(tmp_path):
    config = load_config(overrides={"tasks": ["movies", "movies@0.5"]})
    record(tmp_path / "a", config, selection=0.5, validation=0.9)
    record(tmp_path / "b", config, selection=0.5, validation=0.1)
    record(tmp_path / "c", config, validation=0.9)
    record(tmp_path / "d", config, state="stopped", selection=0.5)
    found = read_outcome(tmp_path / "a")
    assert found == Outcome({"movies": "accuracy"}, {"movies": 0.5})
    assert read_outcome(tmp_path / "b") == found
    assert [read_outcome(tmp_path / name) for name in ("c", "d", "absent")] == [None] * 3
