"""Cohen's kappa: how far answers agree with targets, beyond what label frequencies give."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._agreement import agreement_parts, agreement_sums


@method(source="scikit-learn, cohen_kappa_score", kinds=("classification", "ordinal"), better="higher")
class Kappa(PartsMetric):
    """Cohen's kappa, -1 to 1; 0 is what chance gives, also where all answers and targets are one label.

    >>> d = Definition("t", "classification", ("x",), "text", "kappa", ("no", "yes"))
    >>> Kappa().score(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), d)
    0.5
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import cohen_kappa_score

        first = np.asarray(targets)[0]
        if (np.asarray(targets) == first).all() and (np.asarray(predictions) == first).all():
            return 0.0
        return float(cohen_kappa_score(targets, predictions))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        return agreement_parts(targets, predictions, definition)

    def value(self, sums: Array, definition: Definition) -> Array:
        correct, true, said = agreement_sums(sums)
        n = true.sum(1)
        chance = (true * said).sum(1) / n
        left = n - chance
        varies = left > 0
        found: Array = (correct - chance) / np.where(varies, left, 1.0)
        return np.where(varies, found, 0.0)
