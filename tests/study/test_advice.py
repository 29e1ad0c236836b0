"""The study that tries the advice of a run: which methods it trains, and what it is told from."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from infos import INFO, TASK
from small_runs import content
from snapshots import known_snapshot
from typer.testing import CliRunner
from vectors import GROUPS

from analysis.transfer.advice import advised_groups, advised_weights
from ortho_lora.__main__ import app
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo, groups_text
from ortho_lora.record.vectors import Vectors
from ortho_lora.study.advice import random_groups, text_from_advice, words_of
from ortho_lora.study.file import read_text
from ortho_lora.study.plan import expected
from ortho_lora.training.config import load_config

NAMES = ("trec", "tweets", "movies", "news")
SETTINGS = {
    "tasks": list(NAMES),
    "steps": 7,
    "seed": 5,
    "snapshots": 1,
    "snapshot_batches": 16,
    "selection_share": 0.25,
}


def vectors_of(true: np.ndarray, names: tuple[str, ...]) -> Vectors:
    """Of true gradients [T, w], which are those of held-out texts as well."""
    rng = np.random.default_rng(0)
    count, width = true.shape
    means, held = ((true + 0.3 * rng.standard_normal((GROUPS, count, width))).astype(np.float32) for _ in range(2))
    ones = np.ones(width, np.float32)
    return Vectors(
        tasks=names, targets=names, means=means, held_out=held, deviation=np.full((count, width), 2.0, np.float32),
        batches=np.full(count, 4 * GROUPS), rate=1e-3 * ones, eps=1e-8 * ones, past=ones,
    )  # fmt: skip


ONE = np.random.default_rng(1).standard_normal(200)
CAMPS = np.stack([ONE, -ONE, ONE, -ONE])
"""Tasks 0, 2 and tasks 1, 3 pull together, and the camps against each other."""
ALIKE = np.stack([ONE] * 4)
FOUR = np.random.default_rng(2).standard_normal((4, 200))
APART = FOUR - FOUR.mean(axis=0)
"""Each against all others: their sum is nothing."""


@pytest.fixture
def record(tmp_path):
    """A run whose snapshot tells these gradients: record(true, **settings)."""

    def make(true, name="mine", probe=None, **settings):
        config = load_config(overrides=SETTINGS | settings)
        names = tuple(task.name for task in config.tasks)
        tasks = [TASK.model_copy(update={"name": task.name, "loss_weight": task.loss_weight}) for task in config.tasks]
        info = {"tasks": tuple(tasks), "config": config.model_dump(mode="json"), "probe": probe, "method": config.label}
        with Recorder(tmp_path / "runs" / name) as recorder:
            recorder.begin(INFO.model_copy(update=info))
            snapshot = known_snapshot(0, vectors=vectors_of(true, names))
            count = np.full(len(names), GROUPS)
            recorder.add_snapshot(
                4,
                replace(
                    snapshot, tasks=names, targets=names, groups=count, target_groups=count, batches=4 * count,
                    target_batches=4 * count, losses=np.ones(len(names)), target_losses=np.ones(len(names)),
                    products={metric: np.ones((GROUPS + 1, len(snapshot.blocks), len(names), len(names)))
                              for metric in snapshot.products},
                    held_out={metric: np.ones((GROUPS + 1, len(snapshot.blocks), len(names), len(names)))
                              for metric in snapshot.held_out},
                ),
            )  # fmt: skip
        return tmp_path / "runs" / name

    return make


def study_of(run):
    text = text_from_advice(run)
    return *read_text(text, run), words_of(text)


def groups_of(file, method):
    return file.methods[method]["groups"]


def test_advised_groups_are_tried_with_random_ones_of_the_same_sizes(record):
    file, _, words = study_of(record(CAMPS))
    assert list(file.methods) == [
        "joint", "advised-groups", "random-groups-1", "random-groups-2", "advised-weights", "single", "ortho-lora",
    ]  # fmt: skip
    assert groups_of(file, "advised-groups") == "trec + movies | tweets + news"
    others = {groups_of(file, f"random-groups-{number}") for number in (1, 2)}
    assert others == {"trec + tweets | movies + news", "trec + news | tweets + movies"}
    assert file.advice.advised == file.advice.groups == "advised-groups"
    assert file.advice.random == ("random-groups-1", "random-groups-2")
    assert words[0] == "Advised: 2 adapters, trec + movies | tweets + news."
    assert file.seeds == (0, 1, 2)


def test_it_is_the_advice_that_pages_tell(record):
    run = record(CAMPS)
    file, _, _ = study_of(run)
    told = advised_groups(run)
    row = told[told["advised"]].iloc[0]
    assert groups_of(file, "advised-groups") == row["groups"]
    promised = file.advice.predicted["advised-groups"]
    assert [promised.gain, promised.low, promised.high, promised.elsewhere] == pytest.approx(
        row[["gain", "low", "high", "elsewhere"]].tolist(), rel=1e-3
    )
    weights, gain = advised_weights(run)
    shares = file.methods["advised-weights"]["loss_weights"]
    assert shares == pytest.approx(dict(zip(weights["task"], weights["advised"], strict=True)), rel=1e-3)
    assert file.advice.predicted["advised-weights"].gain == pytest.approx(gain["gain"], rel=1e-3)
    for number in (1, 2):
        assert file.advice.predicted[f"random-groups-{number}"].gain > promised.high


def test_settings_are_the_runs_without_what_the_study_sets(record):
    weighted = [{"name": "trec", "loss_weight": 2.0}, *NAMES[1:]]
    file, _, _ = study_of(record(CAMPS, tasks=weighted, rank=4))
    assert file.base["rank"] == 4
    assert not {"snapshots", "snapshot_batches", "seed", "method", "selection_share", "groups"} & set(file.base)
    assert file.share == 0.25
    configs = expected(file).configs
    assert len(configs) == 7 * 3
    by_method = {use.cell.method: configs[use.run_id] for use in expected(file).uses if use.seed == 0}
    assert [task.loss_weight for task in by_method["joint"].tasks] == [2.0, 1.0, 1.0, 1.0]
    assert by_method["advised-groups"].tasks == by_method["joint"].tasks
    assert by_method["advised-weights"].tasks != by_method["joint"].tasks
    assert groups_text(by_method["advised-groups"].groups) == "trec + movies | tweets + news"
    assert {config.steps for config in configs.values()} == {7}


def test_where_one_adapter_is_advised_the_best_split_is_tried_against_it(record):
    file, _, words = study_of(record(ALIKE))
    assert (file.advice.advised, file.advice.adapters, file.advice.groups) == ("joint", 1, "best-split")
    assert words[0].startswith("Advised: one adapter for all tasks, which is `joint`")
    assert words[1].startswith("Tried beside it: the best split in two, ")
    assert len(file.advice.random) == 2
    assert len({groups_of(file, name) for name in ("best-split", *file.advice.random)}) == 3


def test_where_each_task_is_to_be_alone_that_is_single(record):
    file, _, words = study_of(record(APART))
    assert (file.advice.advised, file.advice.adapters, file.advice.groups) == ("single", 4, "best-split")
    assert words[0] == "Advised: an adapter for each task, which is `single`."
    assert file.advice.predicted["single"].elsewhere is not None


def test_two_tasks_have_no_other_groups(record):
    file, _, words = study_of(record(CAMPS[:2], tasks=list(NAMES[:2]), method="joint"))
    assert list(file.methods) == ["joint", "advised-weights", "single"]
    assert (file.advice.groups, file.advice.random) == (None, ())
    assert "Two tasks have no other groups to try." in words


def test_the_runs_own_method_goes_along_whatever_it_is(record):
    file, _, _ = study_of(record(CAMPS, method="pcgrad", rule="gradvac"))
    assert file.methods["gradvac-model"] == {"method": "pcgrad", "rule": "gradvac"}
    assert "rule" not in file.base


def test_a_probe_advises_for_the_run_that_it_is_of(record):
    record(CAMPS, name="trained", batch_size=4)
    probe = record(CAMPS, name="measured", batch_size=64, probe=ProbeInfo(run="trained", step=4, seed=0))
    assert study_of(probe)[0].base["batch_size"] == 4


@pytest.mark.parametrize("sizes", [(2, 1), (3, 1), (2, 2), (2, 1, 1), (4, 3, 1)])
def test_random_groups_are_others_of_the_same_sizes(sizes):
    places = iter(range(sum(sizes)))
    like = tuple(tuple(next(places) for _ in range(size)) for size in sizes)
    found = random_groups(like, 2, 0)
    assert len({*found, like}) == 3
    for groups in found:
        assert sorted(map(len, groups)) == sorted(sizes)
        assert sorted(task for group in groups for task in group) == list(range(sum(sizes)))
    assert random_groups(like, 2, 0) == found
    assert any(random_groups(like, 2, seed) != found for seed in range(1, 9))


def test_there_are_no_more_random_groups_than_there_are_others():
    assert len(random_groups(((0, 1), (2,)), 5, 0)) == 2


@pytest.mark.parametrize("like", [((0, 1, 2),), ((0,), (1,), (2,))])
def test_there_are_no_other_groups_of_all_or_of_each(like):
    assert random_groups(like, 2, 0) == []


def test_a_run_without_held_out_texts_is_refused_with_what_to_do(record, tmp_path):
    with Recorder(tmp_path / "runs" / "bare") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(4, known_snapshot(0))
    bare = tmp_path / "runs" / "bare"
    with pytest.raises(OrthoLoraError, match=r"needs a run of `ortho-lora train`"):
        text_from_advice(bare)
    with Recorder(tmp_path / "runs" / "none") as recorder:
        recorder.begin(INFO.model_copy(update={"config": load_config().model_dump(mode="json")}))
        recorder.add("steps", step=0, task=["a"], loss=1.0, learning_rate=1e-3, seconds=0.1, order=0)
    with pytest.raises(
        OrthoLoraError, match=r"no snapshot of it has held-out texts.*`ortho-lora probe .*none`.*give th"
    ):
        text_from_advice(tmp_path / "runs" / "none")


def test_a_file_or_a_run_is_given(record):
    run = record(CAMPS)
    for given in ([], ["quick", "--from-advice", str(run)]):
        done = CliRunner().invoke(app, ["study", *given])
        assert isinstance(done.exception, OrthoLoraError)
        assert "expected a FILE or PRESET, or --from-advice RUN" in str(done.exception)


def test_the_plan_shows_the_file_and_writes_nothing(record):
    run = record(CAMPS)
    before = content(run.parent)
    done = CliRunner().invoke(app, ["study", "--from-advice", str(run), "--plan"])
    assert done.exit_code == 0, done.output
    assert text_from_advice(run) in done.stdout
    assert "advised-groups: candidates 1, runs 3, steps 21" in done.stdout
    assert content(run.parent) == before


def test_the_same_command_goes_on_with_the_file_that_is_there(record):
    """Whatever became of the run, and of the file."""
    run = record(CAMPS)
    folder = run.parent / "mine-advice"
    folder.mkdir()
    changed = yaml.safe_load(text_from_advice(run)) | {"seeds": [7]}
    (folder / "study.yaml").write_text(yaml.safe_dump(changed))
    run.rename(run.parent / "elsewhere")
    done = CliRunner().invoke(app, ["study", "--from-advice", str(run), "--plan"])
    assert done.exit_code == 0, done.output
    assert "advised-groups: candidates 1, runs 1, steps 7" in done.stdout
