"""Spearman correlation: how well the order of the answers follows the order of the targets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Metric, Resampler

Ints = NDArray[np.int64]


@method(source="scipy.stats.spearmanr", kinds=("regression", "similarity", "ordinal"), better="higher")
class Spearman(Metric):
    """Spearman's rho, -1 to 1; by convention 0 where answers or targets are constant, or not finite.

    Ranks change with every resample, so there are no parts; but values are sorted only once, and the ranks
    in a resample (ties share their mean rank) follow from cumulative weights.

    >>> d = Definition("t", "regression", ("x",), "text", "spearman")
    >>> Spearman().score(np.array([1.0, 2.0, 3.0]), np.array([1.0, 9.0, 100.0]), d)
    1.0
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from scipy.stats import spearmanr

        for values in (targets, predictions):
            if not np.isfinite(values).all() or np.ptp(values) == 0:
                return 0.0
        return float(np.clip(spearmanr(targets, predictions).statistic, -1.0, 1.0))

    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        if not (np.isfinite(targets).all() and np.isfinite(predictions).all()):
            return lambda weights: np.zeros(len(weights))
        groups = [_groups(values) for values in (targets, predictions)]

        def scores(weights: Array) -> Array:
            x, y = (_ranks(weights, *group) for group in groups)
            wx = weights * x
            spread = np.einsum("bn,bn->b", wx, x) * np.einsum("bn,bn,bn->b", weights, y, y)
            rho = np.einsum("bn,bn->b", wx, y) / np.sqrt(np.where(spread > 0, spread, 1.0))
            found: Array = np.clip(rho, -1.0, 1.0)
            return found

        return scores


def _groups(values: Encoded) -> tuple[Ints, Ints, Ints]:
    """The order of the values, where each group of equal values starts in it, and the group of each value."""
    order = np.argsort(values, kind="stable")
    _, starts, member = np.unique(np.asarray(values)[order], return_index=True, return_inverse=True)
    of = np.empty(len(order), dtype=np.int64)
    of[order] = member
    return order, starts, of


def _ranks(weights: Array, order: Ints, starts: Ints, of: Ints) -> Array:
    """Mean ranks (b, n) in each weighted sample, less their mean; exact multiples of a half."""
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    last = np.cumsum(size, axis=1)
    rank = last - (size - 1) / 2 - (last[:, -1:] + 1) / 2
    found: Array = rank[:, of]
    return found
