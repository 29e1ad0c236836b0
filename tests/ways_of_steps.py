"""A step of `OrthoLoRA`, and what it should leave in `.grad`, from whole vectors."""

import torch

SIZES = [4, 3, 4]
WAYS = ["mixed", "alone"]


def backward(problem, surgeon, way, **options):
    if way == "alone":
        weights = {task: [1] * size for task, size in zip(problem.tasks, problem.sizes, strict=True)}
        return surgeon.backward(problem.losses(), weights=weights, **options)
    with surgeon.mixed_batch(problem.task_of_example, weight_of_example=1):
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
