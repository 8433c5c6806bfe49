"""Matthews correlation: how far answers and targets go together, beyond what label frequencies give."""

from __future__ import annotations

import warnings

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric, one_hot


@method(source="scikit-learn, matthews_corrcoef", kinds=("classification",), better="higher")
class Mcc(PartsMetric):
    """Matthews correlation of two or more labels, -1 to 1; 0 where all answers or all targets are the same.

    From sums: with c right answers of n, t_k targets and p_k answers of label k, it is
    (c n - sum p_k t_k) / sqrt((n^2 - sum p_k^2) (n^2 - sum t_k^2)); Gorodkin 2004, equation 8.

    >>> d = Definition("t", "classification", ("x",), "text", "mcc", ("no", "yes"))
    >>> round(Mcc().score(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), d), 4)
    0.5774
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import matthews_corrcoef

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
            return float(matthews_corrcoef(targets, predictions))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        from scipy.sparse import csr_array, hstack

        k = len(definition.labels)
        correct = csr_array((np.asarray(targets) == np.asarray(predictions)).astype(np.float64)[:, None])
        return hstack([correct, one_hot(targets, k), one_hot(predictions, k)], format="csr")

    def value(self, sums: Array, definition: Definition) -> Array:
        correct, (true, said) = sums[:, 0], np.split(sums[:, 1:], 2, axis=1)
        n = true.sum(1)
        spread = (n**2 - (said**2).sum(1)) * (n**2 - (true**2).sum(1))
        scores: Array = (correct * n - (said * true).sum(1)) / np.sqrt(np.where(spread > 0, spread, 1.0))
        return np.where(spread > 0, scores, 0.0)
