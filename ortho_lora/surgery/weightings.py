"""Weightings of the `torchjd` package as rules: task i's gradient becomes `w_i g_i`.

Each solves one small problem for one Gram matrix, on the host, so they loop over blocks (or groups) and wait for the
device. At T = 5 on one core that took 0.3 ms a matrix (`upgrad`, `imtl-g`, `aligned-mtl`), 2 to 4 (`fairgrad`,
`nash-mtl`), 6 (`cagrad`) or 25 (`mgda`): at scope `block`, seconds a step. Tasks without gradient take no part, and
weigh 1.

So that a learning rate means the same for every rule, weights are scaled to be comparable with the plain sum over
tasks: orthogonal gradients of equal length weigh 1 each (but `cagrad`, which adds its ball's radius). Every Gram
matrix is divided by its mean diagonal first, which changes no direction and keeps tiny gradients above the
solvers' absolute thresholds.

`nash-mtl` is not torchjd's own `NashMTL`, which takes explicit gradients, starts from the last matrix's weights, and
answers with those, or equal ones, where its solver fails. What it approximates, the bargaining solution
`K w = 1 / w`, is FairGrad's with alpha = 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.gram import measured_norms

# The default of the authors' code; the update may leave the mean gradient by this share of its length.
CAGRAD_RADIUS = 0.5
# Minimum potential delay. (0 is the plain sum, 1 the bargaining solution of `nash-mtl`, infinity max-min as in MGDA.)
FAIRGRAD_ALPHA = 2.0


def weigh(gram: Tensor, rule: str, present: Tensor | None = None) -> Tensor:
    """Task weights.

    Args:
        gram: `[..., T, T]`, floating, on any device.
        rule: one of `WEIGHTINGS`.
        present: bool, broadcast to `[..., T]`; by default every task is.

    Returns:
        w `[..., T]` like `gram`; 1 for tasks that have no direction, for a task alone, and for all of a matrix whose
        products are not finite.
    """
    tasks = gram.shape[-1]
    measured = measured_norms(gram, present).isfinite().reshape(-1, tasks).cpu()
    matrices = gram.detach().reshape(-1, tasks, tasks).to("cpu", torch.float64)
    weights = torch.ones(matrices.shape[:2], dtype=torch.float64)
    for index, (matrix, taking_part) in enumerate(zip(matrices, measured, strict=True)):
        matrix = matrix[taking_part][:, taking_part]
        if len(matrix) > 1 and matrix.isfinite().all():
            weights[index, taking_part] = _solve(rule, matrix, f"Gram matrix {index} of {len(matrices)}")
    return weights.reshape(gram.shape[:-1]).to(gram)


def _solve(rule: str, matrix: Tensor, where: str) -> Tensor:
    """Weights `[m]` of the m tasks of one Gram matrix `[m, m]` in float64, all of positive norm."""
    matrix = matrix / (matrix.diagonal() / len(matrix)).sum()
    try:
        weights = WEIGHTINGS[rule](matrix)
    except ImportError as error:
        raise OrthoLoraError(
            f"rule: {rule!r} needs the package torchjd and its solvers, found: {error}; "
            "install them with `pip install 'ortho-lora[rules]'`, or use a rule without any, such as 'pcgrad'."
        ) from error
    except Exception as error:  # whatever a solver raises: three packages have no common class for it
        raise OrthoLoraError(
            f"rule: {rule!r} found no weights for {where}: {type(error).__name__}: {error}; {_REMEDY}"
        ) from error
    if weights.shape != matrix.shape[:1] or not weights.isfinite().all():
        raise OrthoLoraError(
            f"rule: {rule!r}, {where}: expected {len(matrix)} finite weights, found {weights.tolist()}; {_REMEDY}"
        )
    return weights


_REMEDY = "use a rule without a solver, such as 'pcgrad', or a smaller learning rate if gradients grow."


def _mgda(matrix: Tensor) -> Tensor:
    """MGDA, arXiv 1810.04650, Algorithm 2: the shortest convex combination, times the number of tasks."""
    from torchjd.aggregation import MGDAWeighting

    return len(matrix) * MGDAWeighting()(matrix)


def _upgrad(matrix: Tensor) -> Tensor:
    """UPGrad, arXiv 2406.16232: each gradient projected on the cone of no conflict; preference 1 for every task."""
    from torchjd.aggregation import UPGradWeighting

    return UPGradWeighting(torch.ones_like(matrix[0]))(matrix)


def _cagrad(matrix: Tensor) -> Tensor:
    """CAGrad, arXiv 2110.14048, Algorithm 1: near the mean gradient, times the number of tasks."""
    from torchjd.aggregation import CAGradWeighting

    return len(matrix) * CAGradWeighting(CAGRAD_RADIUS)(matrix)


def _imtl_g(matrix: Tensor) -> Tensor:
    """IMTL-G (Liu et al. 2021): equal projections on every unit gradient; weights of sum 1, times the tasks' number."""
    from torchjd.aggregation import IMTLGWeighting

    return len(matrix) * IMTLGWeighting()(matrix)


def _aligned_mtl(matrix: Tensor) -> Tensor:
    """Aligned-MTL (Senushkin et al. 2023), Algorithm 1: equal principal components; preference 1 for every task."""
    from torchjd.aggregation import AlignedMTLWeighting

    return AlignedMTLWeighting(torch.ones_like(matrix[0]))(matrix)


def _fairgrad(matrix: Tensor) -> Tensor:
    """FairGrad, arXiv 2402.15638, eq. 4: `K w = w^(-1/alpha)` on the matrix of mean diagonal 1."""
    from torchjd.aggregation import FairGradWeighting

    return FairGradWeighting(FAIRGRAD_ALPHA)(matrix)


def _nash_mtl(matrix: Tensor) -> Tensor:
    """Nash-MTL, arXiv 2202.01017, Claim 3.1: `K w = 1 / w` on the matrix of mean diagonal 1."""
    from torchjd.aggregation import FairGradWeighting

    # With w = v / |g|, the cosines R take the place of K: R v = 1 / v, whatever the tasks' scales.
    length = matrix.diagonal().sqrt()
    return FairGradWeighting(1.0)(matrix / length.outer(length)) / length


WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mgda": _mgda,
    "upgrad": _upgrad,
    "cagrad": _cagrad,
    "imtl-g": _imtl_g,
    "aligned-mtl": _aligned_mtl,
    "fairgrad": _fairgrad,
    "nash-mtl": _nash_mtl,
}
"""From one Gram matrix `[m, m]` in float64 on the CPU, of mean diagonal 1, to weights `[m]`."""
