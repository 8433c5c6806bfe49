"""Mean absolute error: how far answers are from targets on average."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._errors import distance


@method(source="scikit-learn, mean_absolute_error", kinds=("regression", "similarity", "ordinal"), better="lower")
class Mae(PartsMetric):
    """The mean of |answer - target|, in the units of the target before it was standardised. Ordinal: in steps.

    An error that is not finite, or beyond 1e100, counts as 1e100.

    >>> d = Definition("t", "regression", ("x",), "text", "mae", center=5.0, scale=2.0)
    >>> Mae().score(np.array([0.0, 1.0]), np.array([1.0, 3.0]), d)
    3.0
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import mean_absolute_error

        error = distance(targets, predictions, definition)
        return float(mean_absolute_error(np.zeros(len(error)), error))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        error = distance(targets, predictions, definition)
        return np.stack([error, np.ones(len(error))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        found: Array = sums[:, 0] / sums[:, 1]
        return found
