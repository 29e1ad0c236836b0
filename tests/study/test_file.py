"""The file of a study: what it may say, and the sentence where it says something else."""

import pytest
import yaml

from ortho_lora.errors import OrthoLoraError
from ortho_lora.study import plan
from ortho_lora.study.file import PRESETS, find_file, read_file

SHORT = {"base": {"tasks": ["trec", "spam"]}, "methods": ["joint", "single"]}


@pytest.fixture
def read(tmp_path):
    """Reads a study, or YAML text."""

    def read_one(given):
        path = tmp_path / "mine.yaml"
        path.write_text(given if isinstance(given, str) else yaml.safe_dump(given))
        return read_file(path)[0]

    return read_one


def test_everything_that_may_be_said(read):
    file = read("""
title: Does it help?
base: {tasks: [trec, spam], steps: 300}
methods:
  - joint
  - wide: {method: joint, rank: 32}
seeds: [0, 1]
axes:
  batch_size: [8, 16]
  rho: {0: {tasks: [movies, movies@0]}, "1": {tasks: [movies, movies@1]}}
tuning:
  candidates: [{learning_rate: 1e-3}, {learning_rate: 2e-3}]
  methods:
    wide: [{alpha: 4}, {alpha: 8}]
pairs: [joint]
""")
    assert file.methods == {"joint": {"method": "joint"}, "wide": {"method": "joint", "rank": 32}}
    assert file.axes["batch_size"] == {"8": {"batch_size": 8}, "16": {"batch_size": 16}}
    assert list(file.axes["rho"]) == ["0", "1"]
    assert file.candidates("joint") == ({"learning_rate": 0.001}, {"learning_rate": 0.002})
    assert file.candidates("wide") == ({"alpha": 4}, {"alpha": 8})
    assert (file.has_choice, file.share, file.tuning_seeds) == (True, 0.5, (0,))


def test_without_tuning_there_is_no_choice_and_no_data_for_it(read):
    file = read(SHORT)
    assert (file.has_choice, file.share, file.candidates("joint"), file.warnings) == (False, 0, ({},), [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": ["joint"]}, "method: there is no such entry; nearest: 'methods'"),
        ({"methods": ["ortholora"]}, "methods: 'ortholora' is no method of `train` .*nearest: 'ortho-lora'"),
        ({"methods": [{"wide": {"rank": 4}}]}, "methods: 'wide' is no method of `train`.*says which it is"),
        ({"methods": ["joint", "joint"]}, "methods: 'joint' is given twice"),
        ({"methods": "joint"}, "methods: expected a list of methods"),
        ({"methods": []}, "methods: {} given; dictionary should have at least 1 item"),
        ({"seeds": [0, 0]}, "seeds: expected each seed once"),
        ({"seeds": [-1]}, "seeds.0: -1 given; input should be greater than or equal to 0"),
        ({"base": {"seed": 3}}, "base: seed is set by the study's 'seeds', not here"),
        ({"axes": {"rank": 4}}, "axes: rank: expected a list of values, or labels with settings"),
        ({"axes": {"a": {"x": {"rank": 4}}, "rank": [4, 8]}}, "axes: rank is set by both 'a' and 'rank'"),
        ({"axes": {"method": ["joint"]}}, "axes.method.joint: method is set by the study's 'methods'"),
        ({"tuning": {"candidate": []}}, "tuning.candidate: there is no such entry; nearest: 'candidates'"),
        ({"tuning": {"methods": {"jont": []}}}, "tuning.methods: 'jont' is none of the study's methods; nearest: 'jo"),
        ({"tuning": {"candidates": [{"rank": 4}, {"rank": 4}]}}, "tuning: a candidate of 'joint' is given twice"),
        (
            {"tuning": {"candidates": [{"rank": 4}, {"rank": 8}]}, "axes": {"rank": [4]}},
            "tuning: a candidate of 'joint' sets rank, which the method or an axis sets already",
        ),
        (
            {"tuning": {"candidates": [{"rank": 4}, {"rank": 8}]}, "selection_share": 0},
            "selection_share: 0 leaves no data to choose settings on",
        ),
        ({"pairs": ["pcgrad"]}, "pairs: 'pcgrad' is none of the study's methods"),
    ],
)
def test_what_is_refused(read, changes, sentence):
    with pytest.raises(OrthoLoraError, match=f"study .*mine.yaml: {sentence}"):
        read(SHORT | changes)


@pytest.mark.parametrize("text", ["[joint]", "methods: [", ""])
def test_what_is_no_mapping_is_refused(read, text):
    with pytest.raises(OrthoLoraError, match="study .*mine.yaml: (expected|not valid YAML)"):
        read(text)


def test_what_a_reader_should_know_is_said(read):
    assert read(SHORT | {"methods": ["joint", "pcgrad"]}).warnings == [
        "without single among the methods, no gap recovery can be told"
    ]
    tuned = {"tuning": {"methods": {"joint": [{"rank": 4}, {"rank": 8}]}}}
    assert read(SHORT | tuned).warnings == ["the methods are not tuned alike: candidates are joint 2, single 1"]


def test_a_name_is_that_of_a_file_or_of_a_preset(tmp_path):
    assert find_file("quick") == PRESETS["quick"]
    with pytest.raises(OrthoLoraError, match="study quik: no such file, and no preset of that name .*nearest: 'quick'"):
        find_file("quik")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_trained(name):
    file, _ = read_file(PRESETS[name])
    assert file.title
    assert plan.expected(file).configs
    assert not file.warnings
