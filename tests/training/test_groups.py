"""Groups of tasks that share an adapter: joint and single at their ends, and what a run between them leaves."""

import numpy as np
import pytest
import torch
from interruptions import PowerCutError, content, interrupt
from peft import PeftModel
from safetensors.torch import load_file
from small_runs import table
from studies import tiny_model
from typer.testing import CliRunner

from analysis.conflict.replay import replay
from analysis.library.settings import setting_differences
from analysis.outcomes.beside import outcomes
from ortho_lora.__main__ import app
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_run, read_status
from ortho_lora.training.config import load_config
from ortho_lora.training.estimate import estimate
from ortho_lora.training.lookahead import config_of
from ortho_lora.training.model import load_encoder
from ortho_lora.training.probe import probe
from ortho_lora.training.resume import resume
from ortho_lora.training.train import train

pytestmark = pytest.mark.usefixtures("threads")
TASKS = ["trec", "spam", "movies", "movies@1"]
SMALL = {
    "tasks": TASKS, "method": "joint", "batch_size": 4, "steps": 4, "eval_every": 2, "eval_examples": 24,
    "checkpoint_every": 2, "max_length": 16, "dropout": 0.0, "rank": 2, "threads": 1, "flush_rows": 20, "clip": 0.5,
}  # fmt: skip
NAMES = ["trec", "spam", "movies", "movies-flip1"]
GROUPS = "spam + trec | movies | movies-flip1"
"""The twin without its original, and the original alone."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """That of a run of a tiny model: config(**changes)."""
    model = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return lambda **changes: load_config(overrides=SMALL | {"model": model} | changes)


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """Grouped runs, and what they are compared with."""
    directory = tmp_path_factory.mktemp("runs")
    ways = {
        "single": {"method": "single"},
        "joint": {},
        "grouped": {"groups": GROUPS},
        "twins": {"groups": "movies + movies-flip1 | trec + spam", "method": "ortho-lora", "snapshots": 1},
        "two": {"tasks": TASKS[:2]},
    }
    for name, changes in ways.items():
        train(config(**changes), directory, name)
    return directory


def losses(run):
    return table(run, "steps").pivot(index="step", columns="task", values="loss")


def adapter(run, *names):
    return load_file(run.joinpath("adapter", *names, "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([["trec"], ["movies", "movies-flip1", "spm"]], "there is no task 'spm' .*; nearest: 'spam'"),
        ("trec + spam + trec | movies + movies-flip1", "task 'trec' is given 2 times: expected each task in one group"),
        ("trec + spam | movies", "task 'movies-flip1' is in no group: add it to one"),
        ([["trec", "spam"], [], ["movies", "movies-flip1"]], "a group is empty: leave it out"),
        ("trec + spam | | movies + movies-flip1", "a group is empty: leave it out"),
        (["trec", "spam"], "expected lists of task names, as in"),
        ([["trec", 1]], "expected lists of task names, as in"),
        (3, "expected lists of task names, as in"),
        ([[name] for name in NAMES], "each task has an adapter of its own: give method 'single' instead"),
    ],
)
def test_refusals_say_what_was_given_and_expected(groups, sentence):
    with pytest.raises(OrthoLoraError, match=f"^groups: .*{sentence}"):
        load_config(overrides={"tasks": TASKS, "groups": groups})


def test_help_shows_how_they_are_written():
    done = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"})
    assert "`[[trec, tweets], [spam]]` or `trec + tweets | spam`; null: all of them do." in done.stdout


def test_single_has_its_groups_already():
    with pytest.raises(OrthoLoraError, match="method 'single' gives each task an adapter of its own: leave groups out"):
        load_config(overrides={"tasks": TASKS, "groups": GROUPS, "method": "single"})


def test_a_mistake_in_the_tasks_is_told_alone():
    with pytest.raises(OrthoLoraError, match=r"^tasks.0.packaged.name: 'tre' given[^\n]*$|^tasks.0[^\n]*$"):
        load_config(overrides={"tasks": ["tre"], "groups": [["tre"], ["spam"]]})


def test_equal_groups_are_equal_settings_in_any_order():
    one, other = (
        load_config(overrides={"tasks": TASKS, "groups": groups})
        for groups in ([["movies-flip1"], ["movies"], ["spam", "trec"]], GROUPS)
    )
    assert one == other
    assert one.groups == (("trec", "spam"), ("movies",), ("movies-flip1",))
    assert one.sharing == ((0, 1), (2,), (3,))
    assert load_config(overrides=one.model_dump(mode="json")) == one


def test_one_group_of_all_is_what_there_is_without_groups():
    plain = load_config(overrides={"tasks": TASKS})
    assert load_config(overrides={"tasks": TASKS, "groups": [NAMES[::-1]]}) == plain
    assert "groups" not in plain.model_dump()  # nor in the record of a run


def test_orders_are_gone_through_in_each_group():
    tasks = ["trec", "spam", "tweets", "movies", "news", "movies@1"]
    groups = "trec + spam + tweets | movies + news + movies-flip1"
    assert load_config(overrides={"tasks": tasks, "groups": groups, "order": "mean"}).order == "mean"
    with pytest.raises(OrthoLoraError, match="order 'mean' goes through every order of 6 tasks"):
        load_config(overrides={"tasks": tasks, "order": "mean"})


@pytest.mark.parametrize("task", ["movies", "movies-flip1"])
def test_a_task_in_a_group_of_its_own_trains_as_in_single_bit_for_bit(runs, task):
    single, grouped = (adapter(runs / name, task) for name in ("single", "grouped"))
    assert all(grouped[name].equal(value) for name, value in single.items())
    heads = [load_file(runs / name / "adapter" / "heads.safetensors") for name in ("single", "grouped")]
    assert all(heads[1][name].equal(value) for name, value in heads[0].items() if name.startswith(f"{task}."))
    assert losses(runs / "grouped")[task].equals(losses(runs / "single")[task])


def test_a_group_trains_as_a_joint_run_of_its_tasks_bit_for_bit(runs):
    """Batches, start and clipping are those of these tasks alone."""
    joint, grouped = adapter(runs / "two"), adapter(runs / "grouped", "trec+spam")
    assert all(grouped[name].equal(value) for name, value in joint.items())
    both = [losses(runs / name)[TASKS[:2]] for name in ("grouped", "two")]
    assert np.array_equal(*both)


def test_every_task_starts_with_the_same_loss_whatever_the_groups(runs):
    first = {name: losses(runs / name).loc[0, ["trec", "movies", "spam"]] for name in ("joint", "single", "grouped")}
    assert first["joint"].tolist() == pytest.approx(first["grouped"].tolist(), rel=1e-5)
    assert first["single"].tolist() == pytest.approx(first["grouped"].tolist(), rel=1e-5)


def test_pairs_are_recorded_within_groups_and_norms_of_all(runs):
    run = read_run(runs / "twins")
    assert (run.method, run.rule, run.groups) == ("ortho-lora-grouped", "pcgrad", (("trec", "spam"), tuple(NAMES[2:])))
    pairs, norms = table(runs / "twins", "pairs"), table(runs / "twins", "norms")
    assert set(zip(pairs["task_i"], pairs["task_j"], strict=True)) == {("trec", "spam"), ("movies", "movies-flip1")}
    blocks = 2 * 2 * 2
    assert (len(pairs), len(norms)) == (4 * blocks * 2, 4 * blocks * 4)
    assert pairs["projected_ij"].any()
    status = read_status(runs / "twins")
    assert (status.state, status.step, set(status.losses)) == ("finished", 4, set(NAMES))
    assert set(table(runs / "twins", "metrics")["task"]) == set(NAMES)


def test_a_twin_shares_the_head_where_it_shares_the_adapter(runs):
    names = {run: set(load_file(runs / run / "adapter" / "heads.safetensors")) for run in ("twins", "grouped")}
    assert names["grouped"] - names["twins"] == {"movies-flip1.weight", "movies-flip1.bias"}
    last = {run: table(runs / run, "predictions").query("split == 'validation'") for run in names}
    said = {run: of.pivot(index="example", columns="task", values="prediction") for run, of in last.items()}
    said = {run: of.dropna(subset=["movies", "movies-flip1"]) for run, of in said.items()}
    same = {run: (of["movies"] == of["movies-flip1"]).mean() for run, of in said.items()}
    assert same["twins"] == 1 > same["grouped"]  # of the same texts


def test_each_adapter_loads_with_peft(runs, config):
    for names in ("trec+spam", "movies", "movies-flip1"):
        encoder, _ = load_encoder(config().model)
        model = PeftModel.from_pretrained(encoder, runs / "grouped" / "adapter" / names)
        assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_an_adapter_of_many_tasks_has_a_short_directory(config, tmp_path):
    twins = [{"name": f"movies-{'x' * 40}-{n}", "twin_of": "movies", "rho": 0.5} for n in range(4)]
    run = train(config(tasks=["movies", *twins, "spam"], groups=[["movies", *(t["name"] for t in twins)], ["spam"]],
                       steps=1), tmp_path, "many")  # fmt: skip
    found = {path.name for path in (run / "adapter").iterdir() if path.is_dir()}
    assert found == {"movies+4-more", "spam"}


def test_no_snapshot_is_taken_and_the_log_says_why(runs):
    assert not len(table(runs / "twins", "snapshots"))
    assert "no snapshots: the tasks share several adapters" in (runs / "twins" / "log.txt").read_text()


def test_probe_and_lookahead_are_refused_in_words(runs, config, tmp_path):
    with pytest.raises(OrthoLoraError, match="the tasks share 3 adapters, and a probe compares the gradients of one"):
        probe(config(groups=GROUPS), tmp_path / "runs", of=runs / "grouped")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(OrthoLoraError, match="its tasks share 3 adapters, and a lookahead steps in one"):
        config_of(runs / "grouped")


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(config, tmp_path, monkeypatch):
    changes = {"groups": GROUPS, "dropout": 0.1}
    whole = content(train(config(**changes), tmp_path, "whole"))
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):  # noqa: PT012
        interrupt(patch, "_train_step", 3)
        train(config(**changes), tmp_path, "cut")
    resume(tmp_path / "cut")
    assert content(tmp_path / "cut")[0] == whole[0]


def test_how_long_it_takes_is_estimated(config):
    state = torch.get_rng_state()
    found = estimate(config(groups=GROUPS))
    torch.set_rng_state(state)
    assert found.step > 0
    assert found.evaluation > 0


def test_it_is_compared_with_joint_and_single_beside_it(runs):
    told = {(one.method, one.against) for one in outcomes(runs / "grouped")}
    assert ("joint-grouped: trec + spam | movies | movies-flip1", "joint") in told
    assert ("single", "joint") in told
    infos = {name: read_run(runs / name) for name in ("joint", "grouped")}
    rows = setting_differences(infos).set_index("setting")
    assert rows.loc["groups", "grouped"] == "trec + spam | movies | movies-flip1"


def test_no_update_of_all_tasks_is_replayed(runs):
    with pytest.raises(OrthoLoraError, match="its tasks share 2 adapters .* only a run with one adapter is replayed"):
        replay(runs / "twins", "pcgrad")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ortho-lora"},
        {"method": "pcgrad", "order": "mean"},
        {"rule": "gradvac"},
        {"rule": "pcgrad-inplace", "gradient_mode": "sequential"},
    ],
    ids=str,
)
def test_a_task_alone_has_nothing_to_be_projected_against(config, runs, tmp_path, changes):
    """Whatever the rule, it trains as in single."""
    run = train(config(groups=GROUPS, **changes), tmp_path, "alone")
    for task in ("movies", "movies-flip1"):
        single, own = losses(runs / "single")[task], losses(run)[task]
        np.testing.assert_allclose(own, single, rtol=1e-3)
        assert (table(run, "norms").query("task == @task")["weight"] == 1).all()
