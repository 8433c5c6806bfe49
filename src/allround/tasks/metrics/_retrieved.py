"""Metrics of ranked passages: each query has a score of its own, and the score of a task is their mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.metric import Array, Parts, PartsMetric


class Retrieved(PartsMetric):
    """The mean over queries of `query`, for the first k passages of an answer.

    A passage is relevant where its grade is above 0. A query without a relevant passage counts 0.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    @abstractmethod
    def query(self, gains: NDArray[np.float64], best: NDArray[np.float64]) -> float:
        """The score of a query. gains: the grades of the first k passages of its answer. best: the grades of all its
        relevant passages, the highest first; at least one."""

    def rows(self, targets: Encoded, predictions: Encoded) -> Array:
        """The score of each query: (n,)."""
        return np.array([self._row(target, ranked) for target, ranked in zip(targets, predictions, strict=True)])

    def _row(self, target: Mapping[str, float], ranked: Sequence[str]) -> float:
        best = np.array(sorted((grade for grade in target.values() if grade > 0), reverse=True), dtype=np.float64)
        if not len(best):
            return 0.0
        return float(self.query(np.array([max(0.0, target.get(one, 0.0)) for one in ranked[: self.k]]), best))

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        return float(self.rows(targets, predictions).mean())

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        found = self.rows(targets, predictions)
        return np.stack([found, np.ones(len(found))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    def check(self, definition: Definition) -> None:
        if not 1 <= self.k <= MOST:
            raise AllroundError(
                f"score the task '{definition.name}' by '{definition.metric}'",
                f"it looks at {self.k} passages of an answer, and an answer has at most {MOST}",
                f"give k from 1 to {MOST}",
            )


def discounted(gains: NDArray[np.float64]) -> float:
    """Gains discounted by the logarithm of their rank: sum of gain / log2(rank + 1), ranks from 1.

    >>> discounted(np.array([1.0, 0.0, 1.0]))
    1.5
    """
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
