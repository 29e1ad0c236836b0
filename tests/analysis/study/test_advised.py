"""What a study says of the advice that it tries."""

import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from analysis.study.findings import find
from analysis.study.printing import markdown, print_study
from ortho_lora.record.study import Advice, Predicted

ENDS = {
    "joint": 0.50, "advised-groups": 0.30, "random-groups-1": 0.44, "random-groups-2": 0.48, "advised-weights": 0.501,
    "single": 0.32, "ortho-lora": 0.5,
}  # fmt: skip
"""Loss of each of two tasks at the end."""
FILE = {
    "methods": [
        "joint",
        {"advised-groups": {"method": "joint", "groups": "movies + trec | tweets"}},
        {"random-groups-1": {"method": "joint", "groups": [["movies"], ["tweets", "trec"]]}},
        {"advised-weights": {"method": "joint", "loss_weights": {"movies": 2.0, "tweets": 0.5}}},
        "single",
    ]
}
PREDICTED = {
    "advised-groups": Predicted(gain=-0.02, low=-0.03, high=-0.01, elsewhere=-0.018),
    "random-groups-1": Predicted(gain=-0.002, low=-0.004, high=0.001),
    "advised-weights": Predicted(gain=-0.001, low=-0.003, high=0.001, elsewhere=-0.0005),
}
ADVICE = Advice(
    run="mine", adapters=2, advised="advised-groups", groups="advised-groups",
    random=("random-groups-1", "random-groups-2"), predicted=PREDICTED,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(studies, records, tmp_path_factory):
    """What a finished study of advised groups shows."""
    return find(tried(studies.Maker(records, tmp_path_factory.mktemp("made") / "advised")))


def tried(maker, advice=ADVICE, seeds=(0, 1, 2), without=(), noise=0.005):
    """A study of these ends, with a little noise by seed."""
    for place, (method, level) in enumerate(ENDS.items()):
        for seed in seeds if method not in without else ():
            rng = np.random.default_rng([place, seed])
            ends = {task: level + noise * rng.standard_normal() for task in ("movies", "tweets", "trec")}
            maker.add(method, seed, ends, metric="loss", predictions=False)
    return maker.write(seeds, advice=advice, file=FILE)


def test_predicted_and_realized_stand_side_by_side(study):
    frame = study.advice.set_index("method")
    assert list(frame.index) == [method for method in ENDS if method != "joint"]
    groups = frame.loc["advised-groups"]
    assert (groups["predicted"], groups["elsewhere"], groups["seeds"]) == (-0.02, -0.018, 3)
    assert groups["settings"] == "movies + trec | tweets"
    assert groups["loss"] == pytest.approx(3 * -0.20, abs=0.04)  # of three tasks
    assert groups["low"] < groups["loss"] < groups["high"] < 0
    assert groups["clear"]
    assert not frame.loc["ortho-lora", "clear"]
    assert frame.loc["random-groups-1", "settings"] == "movies | tweets + trec"
    assert frame.loc["advised-weights", "settings"] == "movies 2, tweets 0.5"
    assert np.isnan(frame.loc["single", "predicted"])


def test_it_is_told_before_all_else(study):
    first, second = study.sentences[:2]
    assert first.startswith(
        "Advice of run mine: 2 adapters, advised-groups (movies + trec | tweets), promised -20 mnat a step against one"
        " adapter (on other texts -18). Its summed validation loss ended 0."
    )
    said = first.split("; ")
    assert "nats below joint (" in said[0]
    assert "3 seeds: better)" in said[0]
    assert "nats below random groups of the same sizes (" in said[1]
    assert said[1].endswith("3 seeds: better)")
    assert "below single (" in said[2]
    assert second.startswith("With the advised weights, promised -1 mnat a step against one adapter (on other texts")
    assert "nats above joint (" in second or "nats below joint (" in second
    assert "not distinguishable from noise" in second


def test_random_groups_count_as_the_mean_of_their_draws(maker):
    said = find(tried(maker, seeds=(0,), noise=0.0)).sentences[0]
    assert "0.48 nats below random groups of the same sizes" in said  # 3 (.30 - (.44 + .48) / 2)


def test_one_adapter_and_one_for_each_are_named_as_such(maker):
    joint = ADVICE.model_copy(update={"adapters": 1, "advised": "joint"})
    first, second = find(tried(maker, joint, seeds=(0,))).sentences[:2]
    assert first == "Advice of run mine: one adapter for all tasks (joint); no split was promised to be worth another."
    assert second.startswith("Tried beside it: advised-groups (movies + trec | tweets), promised -20 mnat")


def test_of_single_both_are_told(maker):
    single = ADVICE.model_copy(update={"adapters": 3, "advised": "single"})
    first, second = find(tried(maker, single)).sentences[:2]
    assert first.startswith(
        "Advice of run mine: one adapter for each task (single). Its summed validation loss ended 0.5"
    )
    assert "random groups" not in first
    assert "random groups" in second


def test_few_seeds_and_what_has_not_finished(maker):
    found = find(tried(maker, seeds=(0, 1), without=("random-groups-1", "random-groups-2", "single")))
    assert "(2 seeds: too few to tell it from noise)" in found.sentences[0]
    assert "random groups" not in found.sentences[0]
    assert found.advice["low"].isna().all()


def test_the_groups_are_what_the_study_is_about_and_the_paper_is_left_out(study):
    text = " ".join(study.sentences)
    assert re.search(r"advised-groups is 0\.\d+ above joint on the mean of the tasks", text)
    assert "A step of advised-groups took" in text
    assert "the paper" not in text


def test_it_is_printed_and_written(study):
    console = Console(file=StringIO(), record=True, width=220)
    print_study(console, study)
    printed, written = console.export_text(), markdown(study)
    assert "The advice, and what came of it" in printed
    assert "### The advice, and what came of it" in written
    row = next(line for line in written.splitlines() if line.startswith("| advised-groups |"))
    assert "movies + trec" in row
    assert "-20" in row


def test_other_studies_tell_of_none(finished):
    found = find(finished)
    assert found.advice.empty
    assert "Advice" not in " ".join(found.sentences)
