"""Task gradients to test with: by number of tasks, rank and scale."""

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def gradients(draw: st.DrawFn, min_tasks: int = 1, max_tasks: int = 6) -> Tensor:
    """`[T, P]` in float64: any rank from 1 to P, each task at a scale of its own between 1e-30 and 1e15."""
    tasks = draw(st.integers(min_tasks, max_tasks))
    size = draw(st.integers(1, 8))
    rank = draw(st.integers(1, size))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    left = torch.randn(tasks, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, size, generator=generator, dtype=torch.float64)
    return left @ right * draw(scales(tasks))


def scales(tasks: int) -> st.SearchStrategy[Tensor]:
    """`[T, 1]` in float64, between 1e-30 and 1e15."""
    exponents = st.lists(st.integers(-30, 15), min_size=tasks, max_size=tasks)
    return exponents.map(lambda drawn: torch.tensor([[10.0**e] for e in drawn], dtype=torch.float64))


def orders(tasks: int) -> st.SearchStrategy[list[int]]:
    """Permutations of the tasks."""
    return st.permutations(range(tasks)).map(list)


def some_orders(tasks: int) -> st.SearchStrategy[list[list[int]]]:
    """One permutation of the tasks, or a few."""
    return st.lists(orders(tasks), min_size=1, max_size=3)
