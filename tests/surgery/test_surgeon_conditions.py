"""`OrthoLoRA` under the conditions that training has: half precision, compiled models, missing tasks."""

import copy
import math
import warnings

import pytest
import torch
from models import Problem, tiny_bert, tiny_t5, translated
from oracles import pcgrad
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from ways_of_steps import SIZES, WAYS, assert_close, backward, expected_update

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoraWarning, Recorder
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_run, read_status


@pytest.mark.parametrize("way", WAYS)
def test_autocast_in_bfloat16(way):
    problem = Problem(tiny_bert().float(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    with torch.autocast("cpu", torch.bfloat16):  # also around `backward`, as some loops have it
        measured = backward(problem, surgeon, way)
    exact = Problem(copy.deepcopy(problem.model).double(), SIZES)
    expected = torch.stack([gradients @ gradients.T for gradients in exact.gradients()])
    scale = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (measured.gram - expected).abs() / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    assert error.max() < 0.1  # bfloat16 has three digits
    assert all(gradient.dtype == torch.float32 for gradient in problem.grads())


@pytest.mark.parametrize("way", WAYS)
def test_float16_with_a_scaler(way):
    problem = Problem(tiny_bert().float(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=1.0)
    before = [block.parameter.detach().clone() for block in problem.blocks]
    exact = Problem(copy.deepcopy(problem.model).double(), SIZES)
    with torch.autocast("cpu", torch.float16):
        losses = problem.losses()
    if way == "alone":
        measured = surgeon.backward(losses, scaler=scaler)
    else:
        with surgeon.mixed_batch(problem.task_of_example):
            with torch.autocast("cpu", torch.float16):
                losses = problem.mixed_losses()
            measured = surgeon.backward(losses, scaler=scaler)
    expected = torch.stack([gradients @ gradients.T for gradients in exact.gradients()])
    scale = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((measured.gram - expected).abs() / (scale.unsqueeze(-1) * scale.unsqueeze(-2))).max() < 0.02  # unscaled
    scaler.step(optimizer)
    scaler.update()
    update = expected_update(exact, pcgrad, "block", "both", measured.order)
    for start, block, change in zip(before, problem.blocks, update, strict=True):
        taken = start - block.parameter.detach()
        assert (taken.double() - change).abs().max() < 0.05 * change.abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_in_float16_is_skipped_by_the_scaler_and_recorded_as_not_measured(tmp_path, way):
    problem = Problem(tiny_bert().float(), SIZES)
    recorder = Recorder(tmp_path / "run")
    surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=1.0)
    before = [block.parameter.detach().clone() for block in problem.blocks]
    with surgeon.mixed_batch(problem.task_of_example) if way == "mixed" else warnings.catch_warnings():
        with torch.autocast("cpu", torch.float16):
            losses = problem.mixed_losses() if way == "mixed" else problem.losses()
        surgeon.backward(losses, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert all(block.parameter.equal(start) for block, start in zip(problem.blocks, before, strict=True))
    assert scaler.get_scale() == 2.0**59
    recorder.close()
    import pandas as pd

    pairs = pd.read_parquet(part_files(tmp_path / "run", "pairs"))
    assert pairs["cos_before"].isna().all()
    assert not pairs["projected_ij"].any()


def test_a_compiled_model_is_served_task_by_task():
    problem = Problem(tiny_bert(), SIZES)
    expected = Problem(tiny_bert(), SIZES)
    problem.model = torch.compile(problem.model, backend="aot_eager")
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    measured = backward(problem, surgeon, "alone")
    assert_close(problem.grads(), expected_update(expected, pcgrad, "block", "both", measured.order))
    assert measured.half_products.isnan().all()
    refused = pytest.raises(OrthoLoraError, match="layers of a compiled model cannot be watched")
    with refused, surgeon.mixed_batch(problem.task_of_example):
        pass


def test_a_model_compiled_afterwards_is_served_or_refused():
    problem = Problem(tiny_bert(), SIZES)
    expected = Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    problem.model.compile(backend="aot_eager")
    measured = backward(problem, surgeon, "alone")
    assert_close(problem.grads(), expected_update(expected, pcgrad, "block", "both", measured.order))
    problem.zero()
    with pytest.raises(OrthoLoraError, match="layers of a compiled model cannot be watched"):
        backward(problem, surgeon, "mixed")


@pytest.mark.parametrize("way", WAYS)
def test_a_task_may_be_missing_from_a_step(tmp_path, way):
    problem = Problem(tiny_bert(), SIZES)
    recorder = Recorder(tmp_path / "run")
    surgeon = OrthoLoRA(problem.model, problem.tasks, recorder=recorder)
    if way == "alone":
        measured = surgeon.backward(problem.losses(["a", "c"]))
    else:
        with surgeon.mixed_batch([0] * 4 + [2] * 4):
            states = problem.states(problem.model, torch.cat([problem.tokens[0], problem.tokens[2]])).split(4)
            measured = surgeon.backward({"a": problem.error(0, states[0]), "c": problem.error(2, states[1])})
    gradients = [of_block[[0, 2]] for of_block in problem.gradients()]
    order = [0, 1] if measured.order.index(0) < measured.order.index(2) else [1, 0]
    expected = [pcgrad(g, order).sum(0).view_as(b.parameter) for g, b in zip(gradients, problem.blocks, strict=True)]
    assert_close(problem.grads(), expected)
    assert measured.losses.isnan().tolist() == [False, True, False]
    recorder.close()
    import pandas as pd

    norms = pd.read_parquet(part_files(tmp_path / "run", "norms"))
    assert norms.groupby("task", observed=True)["norm_before"].count().to_dict() == {"a": 8, "b": 0, "c": 8}
    pairs = pd.read_parquet(part_files(tmp_path / "run", "pairs"))
    measured_pairs = pairs.dropna(subset="cos_before")[["task_i", "task_j"]].astype(str).drop_duplicates()
    assert measured_pairs.values.tolist() == [["a", "c"]]


def test_a_task_that_does_not_reach_a_block_has_no_cosine_there():
    """One task reads the encoder alone."""
    problem = Problem(tiny_t5(), [4, 4], translated)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    encoder = problem.model.get_base_model().encoder
    alone = problem.error(0, encoder(input_ids=problem.tokens[0]).last_hidden_state)
    measured = surgeon.backward({"a": alone, "b": problem.loss(1)})
    decoder = torch.tensor(["decoder" in block.path for block in problem.blocks])
    assert (~measured.present[:, 0]).equal(decoder)
    assert measured.present[:, 1].all()
    assert not measured.projected[decoder].any()
    assert (measured.gram[decoder, 0, 0] == 0).all()


class Synchronisations(TorchDispatchMode):
    """Counts what waits for an accelerator: values read on the host, shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "unique", "equal", "masked_select"):
            self.found.append(name)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("way", WAYS)
def test_a_step_waits_once_however_many_layers_there_are(monkeypatch, way):
    counts = {}
    for layers in (2, 5):
        problem = Problem(tiny_bert(layers=layers), SIZES)
        surgeon = OrthoLoRA(problem.model, problem.tasks)
        backward(problem, surgeon, way)
        problem.zero()
        copies, plain = [], torch.Tensor.cpu

        def copy_to_host(tensor, copies=copies, plain=plain):
            copies.append(tensor.shape)
            return plain(tensor)

        with Synchronisations() as of_model:
            sum((problem.mixed_losses() if way == "mixed" else problem.losses()).values()).backward()
        problem.zero()
        surgeon.reset()
        with monkeypatch.context() as patch, Synchronisations() as modes:
            patch.setattr(torch.Tensor, "cpu", copy_to_host)
            patch.setattr("ortho_lora.surgery.gram.PLAIN", (math.inf, 0.0))  # as on an accelerator
            backward(problem, surgeon, way)
        # The order is drawn, and the results are put in place, on the host.
        counts[layers] = len(copies)
        assert modes.found == of_model.found  # transformers 4 looks at masks
    assert counts == {2: 1, 5: 1}


def test_layers_that_never_get_a_gradient_are_called_out():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    last = problem.model.get_base_model().encoder.layer[1].attention.self
    last.query.forward = last.query.get_base_layer().forward  # its adapter is left out

    def steps(count):
        for _ in range(count):
            backward(problem, surgeon, "alone")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(2)
    with pytest.warns(OrthoLoraWarning, match=r"reached 1 of 8 LoRA matrices for 3 steps \(.*layer.1.*query B\)"):
        steps(1)
    with pytest.warns(OrthoLoraWarning, match=r"query A\)"):  # A may be zero in the first step
        steps(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(2)


def test_what_was_measured_is_recorded_and_read_back(tmp_path):
    import pandas as pd

    problem = Problem(tiny_bert(), SIZES)
    optimizer = torch.optim.AdamW(problem.model.parameters(), lr=0.25)
    with Recorder(tmp_path / "mine", total=3, flush_seconds=0) as recorder:
        surgeon = OrthoLoRA(
            problem.model,
            problem.tasks,
            recorder=recorder,
            optimizer=optimizer,
            loss_weights={"b": 2.0},
            record_every=2,
        )
        orders = [backward(problem, surgeon, "mixed").order for _ in range(3)]
    status, run = read_status(tmp_path / "mine"), read_run(tmp_path / "mine")
    assert (status.state, status.step, status.total) == ("finished", 3, 3)
    assert (run.method, run.rule, run.scope, run.task_names) == ("ortho-lora", "pcgrad", "block", ["a", "b", "c"])
    assert run.tasks[1].loss_weight == 2.0
    steps = pd.read_parquet(part_files(tmp_path / "mine", "steps"))
    assert (steps["learning_rate"] == 0.25).all()
    recorded = steps.sort_values(["step", "order"]).groupby("step")["task"].apply(list).tolist()
    assert recorded == [[problem.tasks[task] for task in order] for order in orders]
    plain = [loss.item() for loss in problem.losses().values()]
    assert steps[steps["step"] == 0]["loss"].tolist() == pytest.approx(plain)  # without its weight
    pairs = pd.read_parquet(part_files(tmp_path / "mine", "pairs"))
    assert sorted(pairs["step"].unique()) == [0, 2]
    assert len(pairs) == 2 * len(problem.blocks) * 3


@pytest.mark.parametrize("rule", ["pcgrad", "gradvac"])
def test_a_restored_surgeon_goes_on_as_if_it_had_never_stopped(rule):
    problem, again = Problem(tiny_bert(), SIZES), Problem(tiny_bert(), SIZES)
    one, other = (OrthoLoRA(of.model, of.tasks, rule=rule, seed=seed) for seed, of in enumerate((problem, again)))
    backward(problem, one, "alone")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(3):
        first, second = backward(problem, one, "alone"), backward(again, other, "alone")
        assert first.order == second.order
        assert first.coefficients.equal(second.coefficients)
    assert one.step == other.step == 4


class Positioned(nn.Module):
    """Its layer `table` receives seven positions, whatever the batch."""

    def __init__(self):
        super().__init__()
        self.words, self.table, self.out = (nn.Linear(6, 6) for _ in range(3))
        self.positions = nn.Parameter(torch.randn(7, 6), requires_grad=False)

    def forward(self, words):
        return self.out(torch.tanh(self.words(words) + self.table(self.positions)[: words.shape[1]]))


def test_rows_that_are_no_examples_have_no_halves():
    torch.manual_seed(0)
    model = get_peft_model(Positioned(), LoraConfig(target_modules=["words", "table", "out"], r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    surgeon = OrthoLoRA(model, ["a", "b"], method="joint")
    batches = {"a": torch.randn(4, 5, 6), "b": torch.randn(4, 5, 6)}
    measured = surgeon.backward(
        {task: model(batch).square().mean() for task, batch in batches.items()}, weights=dict.fromkeys("ab", [1] * 4)
    )
    for block, halves in zip(surgeon.blocks, measured.half_products, strict=True):
        assert halves.isnan().all() == (block.module == "table"), block
    model.zero_grad()
    sum(model(batch).square().mean() for batch in batches.values()).backward()
    for block, gram in zip(surgeon.blocks, measured.gram, strict=True):  # nothing is lost of the gradient itself
        torch.testing.assert_close(gram.sum().sqrt().float(), block.parameter.grad.norm())
