"""Log loss: how improbable a system said the targets were; it rewards honest probabilities."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import Array, Parts, PartsMetric

#: No probability is taken to be less than this, nor more than 1 less this.
_LEAST = float(np.finfo(np.float64).eps)


@method(
    source="scikit-learn, log_loss",
    needs=("scores",),
    kinds=("classification", "ordinal", "multilabel", "multiple_choice"),
    better="lower",
)
class LogLoss(PartsMetric):
    """The mean of -log p(target), in nats; 0 is best. Multilabel: the mean over labels too.

    Probabilities below 2.2e-16 count as that much, so no example counts more than 36.

    >>> d = Definition("t", "classification", ("x",), "text", "log_loss", ("no", "yes"))
    >>> round(LogLoss().score(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]), d), 4)
    1.0397
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import log_loss

        table = _probabilities(predictions, definition)
        if kind(definition.kind).lists:
            columns = zip(np.asarray(targets).T, table.T, strict=True)
            return float(np.mean([log_loss(has, np.stack([1 - p, p], 1), labels=[0, 1]) for has, p in columns]))
        if table.shape[1] == 1:
            return 0.0
        return float(log_loss(targets, table, labels=range(table.shape[1])))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        table, wanted = _probabilities(predictions, definition), np.asarray(targets)
        if kind(definition.kind).lists:
            loss = -np.log(np.where(wanted == 1, table, 1 - table)).mean(1)
        else:
            loss = -np.log(table[np.arange(len(wanted)), wanted])
        return np.stack([loss, np.ones(len(loss))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        found: Array = sums[:, 0] / sums[:, 1]
        return found


def _probabilities(scores: Encoded, definition: Definition) -> Array:
    """The scores in double precision: rows add up to 1 where labels exclude each other, and none is 0 or 1."""
    table = np.asarray(scores, dtype=np.float64)
    if not kind(definition.kind).lists:
        table = table / table.sum(1, keepdims=True)
    return np.clip(table, _LEAST, 1 - _LEAST)
