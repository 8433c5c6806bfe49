"""Matthews correlation: how far answers and targets go together, beyond what label frequencies give."""

from __future__ import annotations

import warnings

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._agreement import agreement_parts, agreement_sums


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
        return agreement_parts(targets, predictions, definition)

    def value(self, sums: Array, definition: Definition) -> Array:
        correct, true, said = agreement_sums(sums)
        n = true.sum(1)
        spread = (n**2 - (said**2).sum(1)) * (n**2 - (true**2).sum(1))
        scores: Array = (correct * n - (said * true).sum(1)) / np.sqrt(np.where(spread > 0, spread, 1.0))
        return np.where(spread > 0, scores, 0.0)
