"""Mixed batches that cannot be taken apart are refused in the first step, and those that can are proven to be right."""

import pytest
import torch
from models import VOCABULARY, Problem, tiny_albert, tiny_bert, tiny_llama, with_lora
from torch import nn
from ways_of_steps import SIZES

from ortho_lora import OrthoLoRA, OrthoLoraError


class TimeFirst(nn.Module):
    """Tokens [examples, time] become [time, examples, width], as in many recurrent models."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)

    def forward(self, input_ids):
        return self.last(self.first(self.embedding(input_ids).transpose(0, 1)).tanh()).transpose(0, 1)


class BatchFirst(TimeFirst):
    """The same with examples first."""

    def forward(self, input_ids):
        return self.last(self.first(self.embedding(input_ids)).tanh())


class Normalised(TimeFirst):
    """Every example is seen through the statistics of its batch."""

    def forward(self, input_ids):
        states = self.first(self.embedding(input_ids))
        return self.last((states - states.mean((0, 1))) / states.std((0, 1)))


def made(kind, targets=("first", "last"), **lora):
    torch.manual_seed(0)
    return with_lora(kind(), list(targets), **lora)


def opposed(model, tokens, of=4):
    """Two tasks whose targets are each other's contrary, so that their gradients are too where they see one batch."""
    states = model(input_ids=tokens)
    direction = torch.linspace(-1, 1, states.shape[-1]).double()
    scores = states.mean(1) @ direction
    return {"a": scores[:of].sum(), "b": -scores[of:].sum()}


def refused(what="taken from a mixed batch is off by"):
    return pytest.raises(OrthoLoraError, match=what)


def mixed_step(surgeon, losses, tasks):
    with surgeon.mixed_batch(tasks):
        return surgeon.backward(losses())


TASKS = ["a"] * 4 + ["b"] * 4


def test_layers_that_are_time_first_are_refused_where_time_and_batch_are_of_one_size():
    model = made(TimeFirst)
    surgeon = OrthoLoRA(model, ["a", "b"], method="joint")
    tokens = torch.randint(1, VOCABULARY, (4, 8)).repeat(2, 1)  # both tasks read the same texts
    with refused(
        r"(last|first), branch [AB]: the gradient of task 'a' taken from a mixed batch is off by \d+%.*time first"
    ):
        mixed_step(surgeon, lambda: opposed(model, tokens), TASKS)
    alone = OrthoLoRA(model, ["a", "b"], method="joint")
    measured = alone.backward(
        {"a": opposed(model, tokens)["a"], "b": opposed(model, tokens)["b"]}, weights=dict.fromkeys("ab", [1] * 8)
    )
    cosines = measured.gram[:, 0, 1] / (measured.gram[:, 0, 0] * measured.gram[:, 1, 1]).sqrt()
    torch.testing.assert_close(cosines, -torch.ones_like(cosines))  # what was +0.42 before
    assert measured.half_products.isnan().all()  # its first dimension may count tokens as well


def test_one_loss_for_all_tasks_needs_to_know_which_dimension_counts_examples():

    def step(model, surgeon, length):
        tokens = torch.randint(1, VOCABULARY, (8, length))
        mixed_step(surgeon, lambda: sum(opposed(model, tokens).values()), TASKS)

    for kind in (TimeFirst, BatchFirst):
        model = made(kind)
        surgeon = OrthoLoRA(model, ["a", "b"], method="joint")
        with refused("its input has 8 examples and as many tokens, so one loss for all tasks cannot tell"):
            step(model, surgeon, 8)
    step(model, surgeon, 9)
    model.zero_grad()
    step(model, surgeon, 8)  # known by now
    model = made(TimeFirst)
    with refused("it received 9 rows for 8 examples"):
        step(model, OrthoLoRA(model, ["a", "b"]), 9)


def test_losses_that_couple_tasks_are_refused():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)

    def contrastive():
        states = problem.states(problem.model, torch.cat(problem.tokens)).mean(1)
        scores = nn.functional.normalize(states) @ nn.functional.normalize(states).T / 0.1
        each = nn.functional.cross_entropy(scores, torch.arange(8).roll(1), reduction="none")  # negatives of both tasks
        return {"a": each[:4].mean(), "b": each[4:].mean()}

    with refused("in-batch negatives"):
        mixed_step(surgeon, contrastive, problem.task_of_example)


def test_batch_statistics_are_refused():
    model = made(Normalised)
    surgeon = OrthoLoRA(model, ["a", "b"])
    with refused("batch statistics"):
        mixed_step(surgeon, lambda: opposed(model, torch.randint(1, VOCABULARY, (8, 5))), TASKS)


@pytest.mark.parametrize("branch", ["A", "B"])
@pytest.mark.parametrize("fresh", [False, True])
def test_penalties_on_the_weights_are_refused_in_a_mixed_batch(branch, fresh):
    """Also where they begin to be felt in the second step: the penalty of B = 0 has no gradient."""
    problem = Problem(tiny_bert(), [4, 4])
    penalised = [block.parameter for block in problem.blocks if block.branch == branch]
    for block in problem.blocks if fresh else ():
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)

    def losses():
        found = problem.mixed_losses()
        return found | {"a": found["a"] + 5 * sum((weight**2).sum() for weight in penalised)}

    if fresh and branch == "B":
        mixed_step(surgeon, losses, problem.task_of_example)
        optimizer.step()
        optimizer.zero_grad()
    with refused(f"branch {branch}: the gradient of task 'a' .*a penalty"):
        mixed_step(surgeon, losses, problem.task_of_example)


def test_penalties_on_the_weights_belong_to_a_task_that_has_a_pass_of_its_own():
    problem = Problem(tiny_bert(), [4, 4])
    parameters = [block.parameter for block in problem.blocks]

    def loss(task):
        return problem.loss(task) + 5 * sum((weight**2).sum() for weight in parameters)

    measured = OrthoLoRA(problem.model, problem.tasks, method="joint").backward({"a": loss(0), "b": loss(1)})
    own = [torch.autograd.grad(loss(task), parameters) for task in range(2)]
    for gram, first, second in zip(measured.gram, *own, strict=True):
        stacked = torch.stack([first.flatten(), second.flatten()])
        torch.testing.assert_close(gram, stacked @ stacked.T)


MODELS = {"encoder": tiny_bert, "decoder": tiny_llama, "one layer used several times": tiny_albert}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_right_passes_and_nothing_is_changed_by_looking(name):
    problem = Problem(MODELS[name](), SIZES)
    problem.model.train()
    state = torch.get_rng_state()
    torch.stack(list(problem.mixed_losses().values())).sum().backward()
    plain = problem.grads()
    problem.zero()
    surgeon = OrthoLoRA(problem.model, problem.tasks, "joint")
    torch.set_rng_state(state)
    with surgeon.mixed_batch(problem.task_of_example):
        losses = problem.mixed_losses()
        drawn = torch.get_rng_state()
        assert surgeon.check(losses) < 1e-3  # Llama normalises in float32
        assert all(block.parameter.grad is None for block in problem.blocks)
        assert torch.get_rng_state().equal(drawn)
        surgeon.backward(losses)
    assert all(a.equal(b) for a, b in zip(problem.grads(), plain, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_looks_through_checkpoints(reentrant):
    problem = Problem(tiny_bert(), [4, 4])
    problem.checkpoint(reentrant)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with surgeon.mixed_batch(problem.task_of_example):
        assert surgeon.check(problem.mixed_losses()) < 1e-9
    assert all(parameter.grad is None for parameter in problem.model.parameters())

    def coupled():
        first, second = problem.mixed_losses().values()
        return {"a": first * second, "b": second}

    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with refused():
        mixed_step(surgeon, coupled, problem.task_of_example)


def test_it_looks_again_only_where_it_must():
    """While B = 0 nothing of A is seen; after that every pass of a kind is taken apart alike."""
    problem = Problem(tiny_bert(), [4, 4])
    for block in problem.blocks:
        if block.branch == "B":
            nn.init.zeros_(block.parameter)
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    looks, compare = [], surgeon.verification.compare
    surgeon.verification.compare = lambda *of: looks.append(surgeon.step) or compare(*of)
    for _ in range(5):
        mixed_step(surgeon, problem.mixed_losses, problem.task_of_example)
        optimizer.step()
        optimizer.zero_grad()
    assert looks == [0, 1]


def test_check_says_where_it_belongs():
    problem = Problem(tiny_bert(), [4, 4])
    surgeon = OrthoLoRA(problem.model, problem.tasks)
    with pytest.raises(OrthoLoraError, match="check: called outside `mixed_batch`"):
        surgeon.check(problem.losses())
