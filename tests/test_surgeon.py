"""`OrthoLoRA` in a training loop: what it leaves in `.grad`, against autograd and the methods in full vector space."""

import copy
import warnings

import pytest
import torch
from models import Problem, convolution, states_of, tiny_albert, tiny_bert, tiny_llama, tiny_t5, translated
from oracles import ortho_lora_as_printed, pcgrad
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ortho_lora import OrthoLoRA, OrthoLoraError, OrthoLoraWarning, Recorder
from ortho_lora import surgeon as surgeon_module
from ortho_lora.schema import part_files, read_run, read_status

SIZES = [4, 3, 4]
WAYS = ["mixed", "alone"]


def backward(problem, surgeon, way, **options):
    if way == "alone":
        return surgeon.backward(problem.losses(), **options)
    with surgeon.mixed_batch(problem.task_of_example):
        return surgeon.backward(problem.mixed_losses(), **options)


def expected_update(problem, oracle, scope, branches, order):
    """The sum of the projected gradients of each block, from whole vectors."""
    blocks = problem.blocks
    gradients = problem.gradients()
    applied = [branches in ("both", block.branch) for block in blocks]
    key = {"block": lambda n: n, "module": lambda n: blocks[n].path, "model": lambda n: 0}[scope]
    result = [gradient.sum(0) for gradient in gradients]
    for group in {key(n) for n in range(len(blocks)) if applied[n]}:
        members = [n for n in range(len(blocks)) if applied[n] and key(n) == group]
        projected = oracle(torch.cat([gradients[n] for n in members], dim=1), order).sum(0)
        for n, part in zip(members, projected.split([gradients[n].shape[1] for n in members]), strict=True):
            result[n] = part
    return [update.view_as(block.parameter) for update, block in zip(result, blocks, strict=True)]


def assert_close(found, expected, rtol=1e-7, atol=1e-9):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("branches", ["both", "A", "B"])
@pytest.mark.parametrize("scope", ["block", "module", "model"])
@pytest.mark.parametrize(("rule", "oracle"), [("pcgrad", pcgrad), ("pcgrad-inplace", ortho_lora_as_printed)])
def test_update_is_that_of_the_method_in_full_vector_space(rule, oracle, scope, branches, way):
    problem = Problem(tiny_bert(), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, rule=rule, scope=scope, branches=branches)
    measured = backward(problem, surgeon, way)
    assert_close(problem.grads(), expected_update(problem, oracle, scope, branches, measured.order))
    assert measured.projected.any()


@pytest.mark.parametrize("way", WAYS)
def test_measured_gram_matrices_are_those_of_autograd(way):
    problem = Problem(tiny_bert(), SIZES)
    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks), way)
    for matrix, gradients in zip(measured.gram, problem.gradients(), strict=True):
        torch.testing.assert_close(matrix, gradients @ gradients.T, rtol=1e-7, atol=1e-10)
    for task, size in enumerate(problem.sizes):
        first, second = problem.autograd(task, slice(0, size // 2)), problem.autograd(task, slice(size // 2, size))
        expected = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)])
        torch.testing.assert_close(measured.half_products[:, task], expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(
        measured.losses.tolist(), [loss.item() for loss in problem.losses().values()], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("every", [1, 2])
def test_joint_only_records(tmp_path, way, every):
    """Weights and random state after some steps are bit for bit those of plain training."""
    plain, watched = (Problem(tiny_bert(lora_dropout=0.1), SIZES) for _ in range(2))
    states = []
    for problem in (plain, watched):
        problem.model.train()
        head = nn.Linear(1, 1).double()
        nn.init.ones_(head.weight)
        nn.init.zeros_(head.bias)
        problem.error = lambda *a, error=problem.error, head=head: head(error(*a).view(1, 1)).squeeze()
        optimizer = torch.optim.AdamW([*problem.model.parameters(), *head.parameters()], lr=1e-3)
        torch.manual_seed(5)
        if problem is watched:
            recorder = Recorder(tmp_path / "watched", flush_seconds=0)
            surgeon = OrthoLoRA(problem.model, problem.tasks, "joint", recorder=recorder, record_every=every)
        for _ in range(3):
            optimizer.zero_grad()
            if problem is watched:
                backward(problem, surgeon, way)
            elif way == "mixed":
                torch.stack(list(problem.mixed_losses().values())).sum().backward()
            else:
                for loss in problem.losses().values():
                    loss.backward()
            optimizer.step()
        states.append([*problem.model.state_dict().values(), *head.state_dict().values(), torch.get_rng_state()])
    assert all(a.equal(b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["ortho-lora", "pcgrad"])
def test_micro_batches_are_projected_once_as_one_batch(method, way):
    whole = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(whole.model, whole.tasks, method, order="fixed")
    expected = backward(whole, surgeon, way)
    update = whole.grads()
    whole.zero()
    for rows in (slice(0, 2), slice(2, 4)):
        micro = Problem(whole.model, [2, 2])
        micro.tokens = [tokens[rows] for tokens in whole.tokens]
        micro.targets = [targets[rows] for targets in whole.targets]
        micro.directions = whole.directions
        micro.error = lambda *arguments, error=micro.error: error(*arguments) / 2
        last = rows.stop == 4
        measured = backward(micro, surgeon, way, accumulate=not last)
        assert (measured is None) == (not last)
    assert_close(whole.grads(), update)
    torch.testing.assert_close(measured.gram, expected.gram)
    torch.testing.assert_close(measured.losses, expected.losses)


KINDS = {
    "decoder": (tiny_llama, states_of),
    "encoder-decoder": (tiny_t5, translated),
    "one layer used several times": (tiny_albert, states_of),
    "rank-stabilised": (lambda: tiny_bert(use_rslora=True), states_of),
    "dora": (lambda: tiny_bert(use_dora=True), states_of),
    "embedding": (lambda: tiny_llama(targets=["embed_tokens", "q_proj"]), states_of),
    "convolution": (convolution, states_of),
    "parameter": (lambda: tiny_llama(target_parameters=["mlp.up_proj.weight"]), states_of),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_peft_lora_model(kind):
    make, states = KINDS[kind]
    problem = Problem(make(), SIZES, states)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    measured = backward(problem, surgeon, "alone")
    # Llama and T5 normalise in float32.
    assert_close(problem.grads(), expected_update(problem, pcgrad, "block", "both", measured.order), 1e-3, 1e-5)
    special = {block.module for block in problem.blocks if not block.plain}
    if special:
        with (
            pytest.raises(OrthoLoraError, match="mixed_batch needs plain LoRA on linear layers, and .* are not: give"),
            surgeon.mixed_batch(problem.task_of_example),
        ):
            pass


def test_parameters_outside_the_adapter_take_the_plain_sum():
    problem = Problem(tiny_bert(modules_to_save=["LayerNorm"]), SIZES)
    others = [p for name, p in problem.model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert others
    backward(problem, OrthoLoRA(problem.model, problem.tasks), "mixed")
    found = [parameter.grad.clone() for parameter in others]
    problem.zero()
    sum(problem.mixed_losses().values()).backward()
    assert_close(found, [parameter.grad for parameter in others])


def test_only_the_active_adapter_is_touched():
    model = tiny_bert()
    model.add_adapter("second", model.peft_config["default"])
    model.double()
    model.set_adapter("second")
    problem = Problem(model, [4, 4])
    surgeon = OrthoLoRA(model, problem.tasks)
    assert all("second" in name for name, p in model.named_parameters() if p.requires_grad)
    backward(problem, surgeon, "mixed")
    assert all((p.grad is not None) == p.requires_grad for name, p in model.named_parameters() if "lora_" in name)
    with pytest.raises(OrthoLoraError, match=r"adapter 'default': nothing of it can be trained; .*set_adapter"):
        OrthoLoRA(model, problem.tasks, adapter="default")
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found 2"):
        OrthoLoRA(model, problem.tasks)


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
    with pytest.raises(OrthoLoraError, match="came past the layer that is watched"):
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


def test_streaming_gives_what_projecting_at_the_end_gives(monkeypatch):
    problem = Problem(tiny_bert(layers=3), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed", method="ortho-lora-b")
    first = backward(problem, surgeon, "mixed")  # verified at the end
    update = problem.grads()
    for size in (1, 3000, 10**9):
        monkeypatch.setattr(surgeon_module, "PENDING_BYTES", size)
        problem.zero()
        again = backward(problem, surgeon, "mixed")
        assert_close(problem.grads(), update, 1e-12, 1e-15)
        for name in ("gram", "half_products", "coefficients", "projected"):
            torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=1e-12, atol=1e-15)


def test_streaming_holds_few_gradients_at_a_time(monkeypatch):
    problem = Problem(tiny_bert(layers=4), SIZES)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    most = []
    plain = surgeon._complete

    def watch(index):
        most[-1] = max(most[-1], sum(of.parts is not None for of in surgeon.collector._collected))
        plain(index)

    surgeon._complete = watch
    for size in (1, 10**9):
        monkeypatch.setattr(surgeon_module, "PENDING_BYTES", size)
        most.append(0)
        backward(problem, surgeon, "mixed")
        problem.zero()
        if len(most) == 1:  # the first step is verified as a whole
            assert most == [0]
            most[0] = 0
            backward(problem, surgeon, "mixed")
            problem.zero()
    assert most[0] <= 2
    assert most[1] == len(problem.blocks)


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

        with monkeypatch.context() as patch, Synchronisations() as modes:
            patch.setattr(torch.Tensor, "cpu", copy_to_host)
            backward(problem, surgeon, way)
        # The order is drawn, and the results are put in place, on the host.
        counts[layers] = len(copies), modes.found
    assert counts[2] == counts[5]
    assert counts[2][0] == 1
    assert counts[2][1] == []


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


def test_loss_weights_scale_gradients():
    problem = Problem(tiny_bert(), SIZES)
    plain = backward(problem, OrthoLoRA(problem.model, problem.tasks), "mixed")
    weighted = OrthoLoRA(problem.model, problem.tasks, loss_weights={"b": 3.0})
    for way in WAYS:
        ratio = backward(problem, weighted, way).gram.diagonal(dim1=1, dim2=2) / plain.gram.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(ratio, torch.tensor([1.0, 9.0, 1.0]).double().expand_as(ratio))


@pytest.mark.parametrize("rule", ["pcgrad", "gradvac"])
def test_a_restored_surgeon_goes_on_as_if_it_had_never_stopped(rule):
    problem = Problem(tiny_bert(), SIZES)
    one, other = (OrthoLoRA(problem.model, problem.tasks, rule=rule, seed=seed) for seed in (0, 1))
    backward(problem, one, "alone")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(3):
        first, second = backward(problem, one, "alone"), backward(problem, other, "alone")
        assert first.order == second.order
        assert first.coefficients.equal(second.coefficients)
    assert one.step == other.step == 4


@pytest.mark.parametrize("rule", ["mgda", "upgrad", "imtl-g", "aligned-mtl", "cagrad", "fairgrad"])
def test_weightings_weigh_the_update(rule):
    problem = Problem(tiny_bert(), SIZES)
    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks, rule=rule, scope="model"), "mixed")
    weights = measured.coefficients[0].diagonal()
    assert measured.coefficients.equal(torch.diag(weights).expand_as(measured.coefficients))
    expected = [
        (weights @ gradients).view_as(block.parameter)
        for gradients, block in zip(problem.gradients(), problem.blocks, strict=True)
    ]
    assert_close(problem.grads(), expected)


def test_the_mean_over_all_orders():
    problem = Problem(tiny_bert(), SIZES)
    from itertools import permutations

    measured = backward(problem, OrthoLoRA(problem.model, problem.tasks, order="mean"), "mixed")
    each = [expected_update(problem, pcgrad, "block", "both", order) for order in permutations(range(3))]
    assert_close(problem.grads(), [torch.stack(of_block).mean(0) for of_block in zip(*each, strict=True)])
    assert measured.order is None


def test_orders_are_drawn_from_the_seed():
    problem = Problem(tiny_bert(), SIZES)
    orders = {}
    for seed in (0, 0, 1):
        surgeon = OrthoLoRA(problem.model, problem.tasks, seed=seed)
        torch.manual_seed(len(orders))
        drawn = [backward(problem, surgeon, "alone").order for _ in range(8)]
        assert orders.setdefault(seed, drawn) == drawn
    assert orders[0] != orders[1]
    assert len(set(orders[0])) > 2
    fixed = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    assert {backward(problem, fixed, "alone").order for _ in range(3)} == {(0, 1, 2)}


ERRORS = {
    "method 'ortholora': expected one of joint, ortho-lora": {"method": "ortholora"},
    "method 'single' is an adapter for each task": {"method": "single"},
    "tasks: expected different names, found a, a": {"tasks": ["a", "a"]},
    "tasks: expected different names, found none": {"tasks": []},
    "task 'x': expected one of a, b, c": {"loss_weights": {"x": 1.0}},
    "adapter 'x': nothing of it can be trained; the model has default": {"adapter": "x"},
}


@pytest.mark.parametrize("sentence", ERRORS)
def test_errors_say_what_was_expected(sentence):
    arguments = {"tasks": ["a", "b", "c"]} | ERRORS[sentence]
    with pytest.raises(OrthoLoraError, match=sentence):
        OrthoLoRA(tiny_bert(), **arguments)


def test_misuse_is_told_in_words():
    problem = Problem(tiny_bert(), [2, 2])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with pytest.raises(OrthoLoraError, match="expected one active LoRA adapter, found none"):
        OrthoLoRA(problem.model.get_base_model().embeddings, problem.tasks)
    with pytest.raises(OrthoLoraError, match=r"one loss given outside `mixed_batch`: expected the losses by task"):
        surgeon.backward(problem.loss(0))
    with pytest.raises(OrthoLoraError, match="the tasks' losses share one graph"):
        surgeon.backward(problem.mixed_losses())
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with pytest.raises(OrthoLoraError, match="task 'x': expected one of a, b"):
        surgeon.backward({"x": problem.loss(0)})
    with pytest.raises(OrthoLoraError, match="task 2: expected one of a, b"), surgeon.mixed_batch([0, 2]):
        pass
    losses = problem.mixed_losses()
    with (
        surgeon.mixed_batch([0, 0, 1, 1]),
        pytest.raises(OrthoLoraError, match="met a forward pass made outside `mixed_batch`"),
    ):
        surgeon.backward(losses)
    with surgeon.mixed_batch([0, 1]), pytest.raises(OrthoLoraError, match="it received 4 rows for 2 examples"):
        surgeon.backward(problem.mixed_losses())
    with surgeon.mixed_batch([0, 0, 1, 1]), pytest.raises(OrthoLoraError, match="expected `backward` there"):
        surgeon.backward_part("a", problem.mixed_losses()["a"])


def test_a_run_that_exists_is_refused_before_anything_is_watched(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(OrthoLoraError, match="run 'run' exists"):
        Recorder(tmp_path / "run")


def test_passes_by_length_give_what_one_pass_gives():
    """Halves are those of the whole batch, whichever pass an example is in."""
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks, order="fixed")
    expected = backward(problem, surgeon, "mixed")
    update = problem.grads()
    problem.zero()
    for places in ([0, 3], [1], [2]):
        with surgeon.mixed_batch([0] * len(places) + [1] * len(places), [place // 2 for place in places] * 2):
            tokens = torch.cat([problem.tokens[task][places] for task in range(2)])
            states = problem.states(problem.model, tokens).split(len(places))
            losses = {
                name: len(places) / 4 * problem.error(task, states[task], places)
                for task, name in enumerate(problem.tasks)
            }
            measured = surgeon.backward(losses, accumulate=places != [2])
    assert_close(problem.grads(), update)
    torch.testing.assert_close(measured.gram, expected.gram)
    torch.testing.assert_close(measured.half_products, expected.half_products)
    torch.testing.assert_close(measured.losses, expected.losses)
    with (
        pytest.raises(OrthoLoraError, match=r"half_of_example: expected 0 or 1 for each of 2 examples, found \[0, 2\]"),
        surgeon.mixed_batch([0, 1], [0, 2]),
    ):
        pass
