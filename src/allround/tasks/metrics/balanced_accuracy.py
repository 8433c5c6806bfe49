"""Balanced accuracy: the share of right answers among the examples of each label, averaged over labels."""

from __future__ import annotations

import warnings

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric, one_hot


@method(source="scikit-learn, balanced_accuracy_score", kinds=("classification", "ordinal"), better="higher")
class BalancedAccuracy(PartsMetric):
    """The recall of each label, averaged over the labels that occur among the targets, 0 to 1.

    Rare labels count as much as frequent ones; always answering one of k labels scores 1 / k.

    >>> d = Definition("t", "classification", ("x",), "text", "balanced_accuracy", ("no", "yes"))
    >>> BalancedAccuracy().score(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]), d)
    0.5
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import balanced_accuracy_score

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true", category=UserWarning)
            warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
            return float(balanced_accuracy_score(targets, predictions))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        from scipy.sparse import csr_array, hstack

        true = one_hot(targets, len(definition.labels))
        correct = csr_array((np.asarray(targets) == np.asarray(predictions)).astype(np.float64)[:, None])
        return hstack([true * correct, true], format="csr")

    def value(self, sums: Array, definition: Definition) -> Array:
        right, there = np.split(sums, 2, axis=1)
        recall = right / np.where(there > 0, there, 1.0)
        found: Array = recall.sum(1) / np.maximum((there > 0).sum(1), 1)
        return found
