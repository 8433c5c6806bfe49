"""Examples ranked by a score, counted by weights: what lies below and beside each score of a positive example."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from allround.tasks.metric import Array


class Counts(NamedTuple):
    """Weights of the examples at each of the g different scores of positive examples, ascending, in b samples.

    positive: of the positive examples with that score (b, g). below, beside: of the negative ones with a lower score,
    and with the same. negative: of all negative ones (b,).
    """

    positive: Array
    below: Array
    beside: Array
    negative: Array


class Ranking:
    """Positive and negative examples by their scores, sorted once.

    >>> made = Ranking(np.array([True, False, False]), np.array([0.5, 0.5, 0.1])).count(np.array([[2.0, 1.0, 4.0]]))
    >>> made.positive.tolist(), made.below.tolist(), made.beside.tolist()
    ([[2.0]], [[4.0]], [[1.0]])
    """

    def __init__(self, positive: NDArray[np.bool_], scores: Array) -> None:
        n, mine, others = len(scores), np.flatnonzero(positive), np.flatnonzero(~positive)
        self.values, member = np.unique(scores[mine], return_inverse=True)
        groups = len(self.values)
        # Negative examples fall between two of these scores (even places), or on one of them (odd places).
        left = np.searchsorted(self.values, scores[others], side="left")
        right = np.searchsorted(self.values, scores[others], side="right")
        self.positive = csr_array((np.ones(len(mine)), (mine, member)), shape=(n, groups))
        self.negative = csr_array((np.ones(len(others)), (others, left + right)), shape=(n, 2 * groups + 1))

    def count(self, weights: Array) -> Counts:
        """The counts in samples. weights: (b, n), how often each example was drawn."""
        positive, negative = weights @ self.positive, weights @ self.negative
        below = np.cumsum(negative, axis=1)
        return Counts(positive, below[:, :-1:2], negative[:, 1::2], below[:, -1])


def mean_where(values: list[Array], otherwise: float) -> Array:
    """The mean over arrays (b,) of what is not NaN; a number where all are."""
    rows = np.stack(values)
    known = ~np.isnan(rows)
    total = np.where(known, rows, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), total, otherwise)
