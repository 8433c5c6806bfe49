"""R2: the share of the targets' variance that the answers explain."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._errors import distance

#: A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


@method(source="scikit-learn, r2_score", kinds=("regression", "similarity"), better="higher")
class R2(PartsMetric):
    """1 less the squared error over that of the mean target: 1 at best, below 0 where the mean is better.

    Where the targets are constant it is 1 for answers without an error, and 0 otherwise. An error that is not finite,
    or beyond 1e100, counts as 1e100.

    >>> d = Definition("t", "regression", ("x",), "text", "r2")
    >>> R2().score(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]), d)
    0.5
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import r2_score

        wanted = np.asarray(targets, dtype=np.float64)
        if len(wanted) == 1:
            return float(distance(targets, predictions, definition)[0] == 0)
        return float(r2_score(wanted, wanted + distance(targets, predictions, definition) / definition.scale))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        wanted = np.asarray(targets, dtype=np.float64)
        error = distance(targets, predictions, definition) / definition.scale
        wanted = wanted - wanted.mean()
        return np.stack([np.ones(len(wanted)), wanted, wanted**2, error**2], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        count, total, squares, error = sums.T
        spread = squares - total**2 / count
        varies = spread > _ROUNDING * squares
        found = 1 - error / np.where(varies, spread, 1.0)
        return np.where(varies, found, np.where(error > 0, 0.0, 1.0))
