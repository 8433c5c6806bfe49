"""low_rank: what this model differs from the mean of others follows the few directions in which they differ."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values


@method(
    source="matrix completion by singular vectors with shrinkage (probabilistic principal components: Tipping and "
    "Bishop, 1999); scores of models so predicted: Ye et al., EMNLP Findings 2023, arXiv:2305.14947",
)
def low_rank(others: Values, given: Values, *, rank: int = 1) -> Values:
    """Find the coordinates of this model in the first `rank` principal components of the others.

    Shapes: others (M, T), given (T,) with NaN -> (T,)
    Formula: c + V^T w, w = (V_k V_k^T + s diag(1/l))^-1 V_k (given_k - c_k); c the means of the others, V (rank, T) and
    l their principal directions and variances, s the variance per entry that these leave; _k the known tasks. With
    little known, w is drawn towards 0.

    >>> low_rank(np.array([[0.2, 0.2, 0.4], [0.4, 0.6, 0.8]]), np.array([0.3, 0.8, np.nan]), rank=1).round(3).tolist()
    [0.46, 0.72, 0.92]
    """
    centre, known = others.mean(0), ~np.isnan(given)
    _, sizes, directions = np.linalg.svd(others - centre, full_matrices=False)
    freedom, rank = max(len(others) - 1, 1), min(rank, max(len(others) - 1, 1), len(given))
    variances, left = np.square(sizes[:rank]) / freedom, float(np.square(sizes[rank:]).sum())
    noise = left / freedom / max(len(given) - rank, 1)
    kept = directions[:rank]
    inner = kept[:, known] @ kept[:, known].T + np.diag((noise + 1e-12) / np.maximum(variances, 1e-12))
    return np.asarray(centre + np.linalg.solve(inner, kept[:, known] @ (given - centre)[known]) @ kept)
