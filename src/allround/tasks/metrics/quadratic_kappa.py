"""Quadratic kappa: how far answers agree with ordered targets, where a miss counts by the square of its steps."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric


@method(source="scikit-learn, cohen_kappa_score(weights='quadratic')", kinds=("ordinal",), better="higher")
class QuadraticKappa(PartsMetric):
    """Cohen's kappa with quadratic weights, -1 to 1; 0 is what chance gives, and any constant answer.

    >>> d = Definition("t", "ordinal", ("x",), "text", "quadratic_kappa", ("1", "2", "3"))
    >>> round(QuadraticKappa().score(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), d), 4)
    0.8
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import cohen_kappa_score

        first = np.asarray(targets)[0]
        if (np.asarray(targets) == first).all() and (np.asarray(predictions) == first).all():
            return 0.0
        labels = range(len(definition.labels))
        return float(cohen_kappa_score(targets, predictions, labels=labels, weights="quadratic"))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        true, said = (np.asarray(one, dtype=np.float64) for one in (targets, predictions))
        return np.stack([np.ones(len(true)), (true - said) ** 2, true, true**2, said, said**2], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        n, error, true, true2, said, said2 = sums.T
        chance = true2 + said2 - 2 * true * said / n
        varies = chance > 0
        found: Array = 1 - error / np.where(varies, chance, 1.0)
        return np.where(varies, found, 0.0)
