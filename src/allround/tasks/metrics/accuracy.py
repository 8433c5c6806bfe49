"""Accuracy: the share of right answers."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import Array, Parts, PartsMetric


@method(
    source="scikit-learn, accuracy_score",
    kinds=("classification", "ordinal", "multilabel", "token_classification", "multiple_choice"),
    better="higher",
)
class Accuracy(PartsMetric):
    """The share of examples answered right, 0 to 1.

    Multilabel: an example is right when its whole set of labels is. Token classification: the share of words.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> Accuracy().score(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), d)
    0.75
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import accuracy_score

        if kind(definition.kind).per_token:
            targets, predictions = np.concatenate(targets), np.concatenate(predictions)
            if not len(targets):
                return 0.0
        return float(accuracy_score(targets, predictions))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        if kind(definition.kind).per_token:
            rows = [(np.sum(t == p), len(t)) for t, p in zip(targets, predictions, strict=True)]
            return np.array(rows, dtype=np.float64)
        correct = np.asarray(targets) == np.asarray(predictions)
        if correct.ndim == 2:
            correct = correct.all(1)
        return np.stack([correct, np.ones(len(correct))], 1).astype(np.float64)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)
