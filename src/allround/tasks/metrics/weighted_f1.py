"""Weighted F1: the F1 of each label, averaged over labels by how many examples have them."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import Array, Parts, PartsMetric, one_hot


@method(
    source="scikit-learn, f1_score(average='weighted')",
    kinds=("classification", "ordinal", "multilabel"),
    better="higher",
)
class WeightedF1(PartsMetric):
    """The F1 of each label, weighted by the number of examples that have it, 0 to 1; 0 where no example has any.

    >>> d = Definition("t", "classification", ("x",), "text", "weighted_f1", ("a", "b"))
    >>> round(WeightedF1().score(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), d), 4)
    0.7667
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import f1_score

        labels = range(len(definition.labels))
        return float(f1_score(targets, predictions, labels=labels, average="weighted", zero_division=0.0))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        from scipy.sparse import csr_array, hstack

        if kind(definition.kind).lists:
            true, said = (csr_array(np.asarray(a, dtype=np.float64)) for a in (targets, predictions))
        else:
            true, said = (one_hot(a, len(definition.labels)) for a in (targets, predictions))
        return hstack([true * said, true, said], format="csr")

    def value(self, sums: Array, definition: Definition) -> Array:
        right, true, said = np.split(sums, 3, axis=1)
        f1 = 2 * right / np.where(true + said > 0, true + said, 1.0)
        total = true.sum(1)
        found: Array = (f1 * true).sum(1) / np.where(total > 0, total, 1.0)
        return found
