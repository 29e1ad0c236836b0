"""Real runs of the packaged model on the packaged tasks, read back from disk."""

import threading

import numpy as np
import pytest
import torch
from oracles import pcgrad
from peft import PeftModel
from safetensors.torch import load_file
from small_runs import config, table

from analysis.conflict.replay import apply, replay, steps_of
from ortho_lora.errors import OrthoLoraError, OwnPassError
from ortho_lora.record.schema import read_run, read_status
from ortho_lora.surgery.verification import Verification
from ortho_lora.tasks.loading import load_tasks
from ortho_lora.training import session
from ortho_lora.training.batches import Batch, TaskSampler, seed_of
from ortho_lora.training.model import load_encoder
from ortho_lora.training.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of every method, and of each gradient mode."""
    directory = tmp_path_factory.mktemp("runs")
    for method in ("joint", "ortho-lora", "pcgrad", "single"):
        train(config(method=method, gradient_mode="fused"), directory, method)
    train(config(gradient_mode="sequential"), directory, "sequential")
    return directory


@pytest.mark.parametrize(
    ("method", "rule", "scope"),
    [("joint", "sum", "block"), ("ortho-lora", "pcgrad", "block"), ("pcgrad", "pcgrad", "model")],
)
def test_a_run_replayed_with_its_own_method_is_what_it_did(runs, method, rule, scope):
    recorded = table(runs / method, "norms")
    found = replay(runs / method, rule, scope)
    assert found.agreement == pytest.approx(1, abs=1e-6)
    for effect in found.tasks:
        own = recorded[(recorded["task"] == effect.task) & (recorded["norm_before"] > 0)]
        assert effect.weight == pytest.approx(own["weight"].mean(), abs=1e-5)
        assert effect.removed == pytest.approx((1 - own["norm_after"] / own["norm_before"]).mean(), abs=1e-5)


def test_a_joint_run_replayed_tells_what_projection_would_have_done_in_its_first_step(runs, tmp_path):
    """Step 0 of all methods has the same gradients."""
    pairs = table(runs / "ortho-lora", "pairs")
    first = pairs[(pairs["step"] == 0) & pairs["cos_before"].notna()]
    (part, *_) = steps_of(runs / "joint", read_run(runs / "joint"), 10**6)
    projected = apply(part, "pcgrad", "block", "both", "recorded", None).projected[0]
    assert projected.sum() == first["projected_ij"].sum() + first["projected_ji"].sum()
    assert projected.sum() > 0


@pytest.mark.parametrize("method", ["joint", "ortho-lora", "pcgrad", "single"])
def test_record_is_complete(runs, method):
    run = read_run(runs / method)
    status = read_status(runs / method)
    assert (status.state, status.step, status.total) == ("finished", 5, 5)
    assert (run.method, run.seed, run.gradient_mode) == (method, 0, "fused")
    assert run.task_names == ["trec", "movies", "movies-flip1"]
    blocks, tasks = 12 * 2, 3
    assert len(table(runs / method, "steps")) == 5 * tasks
    assert len(table(runs / method, "norms")) == 5 * blocks * tasks
    assert len(table(runs / method, "pairs")) == (0 if method == "single" else 5 * blocks * 3)
    metrics = table(runs / method, "metrics")
    assert sorted(metrics["step"].unique()) == [0, 2, 4, 5]
    assert set(metrics["metric"]) == {"loss", "accuracy", "macro_f1"}
    assert np.isfinite(metrics["value"]).all()


def test_orders_are_permutations(runs):
    for _, order in table(runs / "ortho-lora", "steps").groupby("step")["order"]:
        assert sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("method", ["joint", "ortho-lora", "pcgrad"])
def test_a_has_no_cosine_at_step_0(runs, method):
    pairs = table(runs / method, "pairs")
    first_a = pairs[(pairs["step"] == 0) & (pairs["branch"] == "A")]
    assert first_a["cos_before"].isna().all()
    # At model scope the whole model's gradients are projected, on every block alike.
    assert first_a["projected_ij"].any() == (method == "pcgrad")
    assert pairs.drop(first_a.index)["cos_before"].notna().all()


def test_opposite_labels_under_one_head_give_opposite_gradients(runs):
    pairs = table(runs / "joint", "pairs")
    twins = pairs[(pairs["task_i"] == "movies") & (pairs["step"] == 0) & (pairs["branch"] == "B")]
    assert twins["cos_before"].mean() < -0.9
    assert (twins["cos_before"] < 0).all()


def test_joint_changes_nothing(runs):
    pairs, norms = table(runs / "joint", "pairs"), table(runs / "joint", "norms")
    assert not pairs["projected_ij"].any()
    np.testing.assert_allclose(pairs["cos_after"], pairs["cos_before"], atol=1e-6)
    assert (norms["weight"] == 1).all()


def test_block_scope_projects_every_conflict_of_the_original_gradients(runs):
    pairs = table(runs / "ortho-lora", "pairs")
    first = table(runs / "ortho-lora", "steps").sort_values(["step", "order"]).groupby("step")["task"].first()
    # Whoever is projected against the first task in the order meets it with an untouched gradient.
    for step, task in first.items():
        rows = pairs[(pairs["step"] == step) & (pairs["task_i"] == task)]
        assert ((rows["cos_before"] < -1e-6) == rows["projected_ji"])[rows["cos_before"].abs() > 1e-6].all()


def test_model_scope_projects_all_blocks_alike(runs):
    pairs = table(runs / "pcgrad", "pairs")
    assert (pairs.groupby(["step", "task_i", "task_j"], observed=True)["projected_ij"].nunique() == 1).all()
    weights = table(runs / "pcgrad", "norms").groupby(["step", "task"], observed=True)["weight"]
    assert (weights.max() - weights.min()).max() < 1e-6


def test_recorded_step_replays_from_cosines_norms_and_order(runs):
    """Vectors with the recorded Gram matrix, projected one at a time, have the recorded cosines and norms."""
    run = runs / "ortho-lora"
    names = read_run(run).task_names
    pairs, norms, steps = table(run, "pairs"), table(run, "norms"), table(run, "steps")
    at = ["step", "layer", "module", "branch"]
    checked = 0
    for key, rows in pairs[pairs["step"] == 3].groupby(at, observed=True):
        before = np.eye(3)
        after = np.eye(3)
        for row in rows.itertuples():
            i, j = names.index(row.task_i), names.index(row.task_j)
            before[i, j] = before[j, i] = row.cos_before
            after[i, j] = after[j, i] = row.cos_after
        of_block = norms[(norms[at] == list(key)).all(axis=1)].set_index("task").loc[names]
        values, directions = np.linalg.eigh(before * np.outer(of_block["norm_before"], of_block["norm_before"]))
        vectors = torch.tensor(directions * np.sqrt(values.clip(0)))
        order = steps[steps["step"] == 3].sort_values("order")["task"].map(names.index).tolist()
        expected = pcgrad(vectors, order)
        np.testing.assert_allclose(expected.norm(dim=1), of_block["norm_after"], rtol=1e-3)
        cosines = torch.nn.functional.cosine_similarity(expected.unsqueeze(0), expected.unsqueeze(1), dim=-1)
        large = of_block["norm_after"].to_numpy() > 0.05 * of_block["norm_before"].to_numpy()
        chosen = np.outer(large, large)
        np.testing.assert_allclose(cosines.numpy()[chosen], after[chosen], atol=5e-3)
        checked += 1
    assert checked == 24


def test_fused_and_sequential_runs_agree(runs):
    fused, sequential = (table(runs / name, "norms") for name in ("ortho-lora", "sequential"))
    np.testing.assert_allclose(sequential["norm_before"], fused["norm_before"], rtol=2e-2, atol=1e-6)
    losses = [table(runs / name, "steps")["loss"] for name in ("ortho-lora", "sequential")]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_recorded_norms_are_those_of_autograd(runs):
    """The first step again, without any of our gradient code."""
    settings = config(method="joint")
    tasks = load_tasks(settings.tasks, settings.seed)
    training = session.Training(settings, tasks, lambda status: None, threading.Event())
    model = training.model.eval()
    indices = TaskSampler(tasks, settings.batch_size, settings.seed).next()
    batch = Batch(tasks, indices, training.tokenizer, settings.max_length, training.device)
    norms = table(runs / "joint", "norms")
    for task, data in enumerate(tasks):
        (loss,) = batch.part(task, 0, 4).losses(model.loss, model.pooled(batch.part(task, 0, 4).tokens())).values()
        blocks = training.groups[0].surgeon.blocks
        found = torch.autograd.grad(loss, [b.parameter for b in blocks])
        recorded = norms[(norms["step"] == 0) & (norms["task"] == data.name)]["norm_before"]
        np.testing.assert_allclose([g.norm().item() for g in found], recorded, rtol=1e-4, atol=1e-7)


def test_same_seed_gives_the_same_record(runs, tmp_path):
    again = train(config(gradient_mode="fused"), tmp_path, "again")
    for name in ("pairs", "norms", "metrics"):
        assert table(again, name).equals(table(runs / "ortho-lora", name)), name
    other = train(config(gradient_mode="fused", seed=1, steps=1), tmp_path, "other")
    assert not np.array_equal(table(other, "steps")["loss"], table(again, "steps")["loss"][:3])


def test_methods_start_from_the_same_weights_and_batches(runs):
    losses = {
        m: table(runs / m, "steps").query("step == 0")["loss"].to_numpy() for m in ("joint", "ortho-lora", "single")
    }
    np.testing.assert_allclose(losses["joint"], losses["ortho-lora"], rtol=1e-5)
    np.testing.assert_allclose(losses["joint"][:2], losses["single"][:2], rtol=1e-5)  # its twin has a head of its own


def test_adapter_loads_with_peft(runs):
    encoder, _ = load_encoder("minilm")
    model = PeftModel.from_pretrained(encoder, runs / "ortho-lora" / "adapter")
    trained = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert len(trained) == 12
    assert all(p.abs().max() > 0 for p in trained)
    heads = load_file(runs / "ortho-lora" / "adapter" / "heads.safetensors")
    assert {name: tuple(value.shape) for name, value in heads.items()} == {
        "trec.weight": (6, 384), "trec.bias": (6,), "movies.weight": (2, 384), "movies.bias": (2,),
    }  # fmt: skip


def test_single_saves_an_adapter_for_each_task(runs):
    for task in ("trec", "movies", "movies-flip1"):
        encoder, _ = load_encoder("minilm")
        PeftModel.from_pretrained(encoder, runs / "single" / "adapter" / task)


def test_majority_is_recorded_on_the_examples_evaluated(runs):
    trec = read_run(runs / "joint").tasks[0]
    assert trec.evaluation_examples == {"validation": 24}
    assert 1 / 6 <= trec.majority["validation"]["accuracy"] < 0.6


def test_loss_weight_scales_the_gradient(runs, tmp_path):
    weighted = [{"name": "trec", "loss_weight": 3.0}, "movies", "movies@1"]
    run = train(config(method="joint", gradient_mode="fused", tasks=weighted, steps=1), tmp_path, "weighted")
    ratio = {
        task: (
            table(run, "norms").query("task == @task and branch == 'B'")["norm_before"].to_numpy()
            / table(runs / "joint", "norms")
            .query("step == 0 and task == @task and branch == 'B'")["norm_before"]
            .to_numpy()
        )
        for task in ("trec", "movies")
    }
    np.testing.assert_allclose(ratio["trec"], 3, rtol=1e-4)
    np.testing.assert_allclose(ratio["movies"], 1, rtol=1e-4)


def test_run_that_exists_is_refused_and_left_alone(runs):
    before = sorted(path for path in (runs / "joint").rglob("*"))
    with pytest.raises(OrthoLoraError, match="run 'joint' exists.*choose another --name"):
        train(config(), runs, "joint")
    assert sorted(path for path in (runs / "joint").rglob("*")) == before


def test_a_pass_that_tasks_cannot_share_names_the_setting_that_gives_each_its_own(tmp_path, monkeypatch):
    def off(*_):
        raise OwnPassError("layer 0: is off")

    monkeypatch.setattr(Verification, "compare", off)
    with pytest.raises(OrthoLoraError, match=r"^layer 0: is off: set gradient_mode: sequential, which gives each task"):
        train(config(gradient_mode="fused"), tmp_path, "fused")
    assert "gradient_mode: sequential" in read_status(tmp_path / "fused").message


def test_regression_and_pairs_train_from_a_file(tmp_path):
    rows = ["a,b,score"] + [f"text {n},other {n % 7},{n / 10}" for n in range(60)]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    mine = {"name": "mine", "path": str(tmp_path / "mine.csv"), "text": "a", "text_pair": "b", "label": "score"}
    run = train(config(tasks=[mine, "trec"], steps=2), tmp_path, "mine")
    metrics = table(run, "metrics").query("task == 'mine'")
    assert {"rmse", "loss"} <= set(metrics["metric"])
    loss, rmse = (metrics.query("metric == @name and step == 2")["value"].item() for name in ("loss", "rmse"))
    assert loss == pytest.approx(rmse**2, rel=1e-4)


def test_predictions_are_those_that_the_last_evaluation_judges(runs, tmp_path):
    predictions = table(runs / "joint", "predictions")
    assert set(predictions["step"]) == {5}
    last = table(runs / "joint", "metrics").query("step == 5 and metric == 'accuracy'").set_index("task")["value"]
    right = (predictions["target"] == predictions["prediction"]).groupby(predictions["task"], observed=True).mean()
    assert right.to_dict() == pytest.approx(last.to_dict())

    run = train(config(method="joint", selection_share=0.5, seed=3), tmp_path, "half")
    half, metrics = table(run, "predictions"), table(run, "metrics")
    assert set(half["split"]) == {"validation", "selection"}
    assert set(metrics.query("split == 'selection'")["step"]) == {5}
    assert set(metrics.query("split == 'validation'")["step"]) == {0, 2, 4, 5}
    whole = load_tasks(config().tasks, 3, 0.5)[0]
    of_task = half[half["task"] == "trec"]
    for name, rows in of_task.groupby("split", observed=True):
        assert len(rows) == 24
        assert rows["example"].is_unique
        assert (whole.evaluation[name].labels[rows["example"]] == rows["target"]).all()


def test_every_seed_is_evaluated_on_the_same_examples(runs, tmp_path):
    other = train(config(method="joint", seed=1, steps=1), tmp_path, "other")
    examples = [
        table(run, "predictions").query("task != 'movies-flip1'")["example"].tolist() for run in (runs / "joint", other)
    ]
    assert examples[0] == examples[1]


def test_peak_memory_is_that_of_training(runs):
    assert 2**27 < read_status(runs / "joint").peak_memory_bytes < 2**36


def test_bf16_runs(tmp_path):
    run = train(config(precision="bf16", steps=2), tmp_path, "bf16")
    pairs = table(run, "pairs")
    assert pairs[pairs["step"] == 1]["cos_before"].notna().all()


def test_seed_of_tells_purposes_apart():
    assert seed_of(0, "a", "b") != seed_of(0, "ab") != seed_of(1, "ab")
