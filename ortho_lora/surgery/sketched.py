"""The error of sketches, for the jackknife to see.

One sketch serves all groups of texts, so leaving groups out tells nothing of what it does to the part of a product that
they share, `<mu_i, mu_j>`. With w sums a block that error has mean 0 and

    Cov(E_ij, E_kl) = (<mu_i, mu_k> <mu_j, mu_l> + <mu_i, mu_l> <mu_j, mu_k>) / w

as a count sketch's has to order 1 / w, and as has that of w coordinates chosen at random where coordinates are about
normal. It is handed on as draws with this covariance, `L Z L^T / sqrt(w)` with L the root of the products and Z a
symmetric matrix of normal numbers, which stand beside the products without a group as if they were of groups more.
"""

import numpy as np
from numpy.typing import NDArray

from ortho_lora.record.jackknife import Floats

DRAWS = 16


def left_out(products: Floats, widths: NDArray[np.float64], groups: int, seed: int = 0) -> Floats:
    """What stands beside the products without each of m groups, [DRAWS, N, C, C].

    The draws are the same for each call, so that of several snapshots' products their errors add up as those of one
    sketch do.

    Args:
        products: of all groups, [N, C, C]; NaN: not known.
        widths: w of each block, [N]; infinite where its sums are exact.
        groups: m.
        seed: of the draws.
    """
    known = np.nan_to_num(products)
    values, vectors = np.linalg.eigh((known + known.swapaxes(-1, -2)) / 2)
    root = (vectors * np.sqrt(values.clip(min=0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    drawn = np.random.default_rng(seed).standard_normal((DRAWS, *products.shape))
    drawn = (drawn + drawn.swapaxes(-1, -2)) / np.sqrt(2)
    drawn = (drawn - drawn.mean(0)) * np.sqrt(DRAWS / (DRAWS - 1))
    # The jackknife of M estimates takes (M - 1) / M of the sum of squares.
    share = (groups + DRAWS - 1) / (groups + DRAWS)
    error = root @ drawn @ root / np.sqrt(widths * DRAWS * share)[:, None, None]
    return np.asarray(products + error, dtype=np.float64)
