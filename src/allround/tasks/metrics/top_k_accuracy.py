"""Top-k accuracy: the share of examples whose label is among the k most probable."""

from __future__ import annotations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric


@method(source="scikit-learn, top_k_accuracy_score", needs=("scores",), kinds=("classification",), better="higher")
class TopKAccuracy(PartsMetric):
    """The share of examples whose target has a score among the k highest, 0 to 1.

    k: how many labels are looked at. Of equal scores, the first label in the task's order comes first.

    >>> d = Definition("t", "classification", ("x",), "text", "top_k_accuracy:k=2", ("a", "b", "c"))
    >>> TopKAccuracy(k=2).score(np.array([0, 1]), np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]), d)
    0.5
    """

    def __init__(self, *, k: int = 3) -> None:
        self.k = k

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        return float(self._right(targets, predictions).mean())

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        right = self._right(targets, predictions)
        return np.stack([right, np.ones(len(right))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    def check(self, definition: Definition) -> None:
        if not 1 <= self.k < len(definition.labels):
            raise AllroundError(
                f"score the task '{definition.name}' by 'top_k_accuracy:k={self.k}'",
                f"the task has {len(definition.labels)} labels, and {self.k} of them are looked at",
                "give k of at least 1 and below the number of labels, or use accuracy",
            )

    def _right(self, targets: Encoded, scores: Encoded) -> Array:
        """1 for each example whose target is among the k most probable labels: (n,)."""
        table, wanted = np.asarray(scores), np.asarray(targets)
        own = table[np.arange(len(wanted)), wanted][:, None]
        earlier = np.arange(table.shape[1]) < wanted[:, None]
        before = (table > own) | ((table == own) & earlier)
        found: Array = (before.sum(1) < self.k).astype(np.float64)
        return found
