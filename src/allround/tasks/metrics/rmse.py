"""Root mean squared error: how far answers are from targets, in the target's own units."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._errors import distance


@method(source="scikit-learn, root_mean_squared_error", kinds=("regression", "similarity"), better="lower")
class Rmse(PartsMetric):
    """The root of the mean squared error, in the units of the target before it was standardised.

    An error that is not finite, or beyond 1e100, counts as 1e100.

    >>> d = Definition("t", "regression", ("x",), "text", "rmse", center=5.0, scale=2.0)
    >>> Rmse().score(np.array([0.0, 1.0]), np.array([1.0, 0.0]), d)
    2.0
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import root_mean_squared_error

        error = distance(targets, predictions, definition)
        return float(root_mean_squared_error(np.zeros(len(error)), error))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        error = distance(targets, predictions, definition)
        return np.stack([error**2, np.ones(len(error))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        found: Array = np.sqrt(sums[:, 0] / sums[:, 1])
        return found
