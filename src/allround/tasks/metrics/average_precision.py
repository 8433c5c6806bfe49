"""Average precision: how many of the examples that score highest for a label have it, as more and more are taken."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Metric, Resampler
from allround.tasks.metrics._labels import each_label, place_of
from allround.tasks.metrics._ranking import Ranking, mean_where


@method(
    source="scikit-learn, average_precision_score",
    needs=("scores",),
    kinds=("classification", "multilabel"),
    better="higher",
)
class AveragePrecision(Metric):
    """The precision at each threshold, weighted by the recall that it adds, 0 to 1; chance is the label's share.

    Of two labels that exclude each other it is that of the second. Of more, it is the mean over the labels, without
    those that no example has; 0 where none is left.

    label: only that of this one.

    >>> d = Definition("t", "classification", ("x",), "text", "average_precision", ("no", "yes"))
    >>> scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> round(AveragePrecision().score(np.array([0, 0, 1, 1]), scores, d), 4)
    0.8333
    """

    def __init__(self, *, label: str | None = None) -> None:
        self.label = label

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import average_precision_score

        found = [
            average_precision_score(has, scores)
            for has, scores in each_label(targets, predictions, definition, self._place(definition))
            if has.any()
        ]
        return float(np.mean(found)) if found else 0.0

    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        place = self._place(definition)
        rankings = [Ranking(*one) for one in each_label(targets, predictions, definition, place)]
        return lambda weights: mean_where([_precision(ranking, weights) for ranking in rankings], 0.0)

    def check(self, definition: Definition) -> None:
        self._place(definition)

    def _place(self, definition: Definition) -> int | None:
        return place_of(self.label, definition, "average_precision")


def _precision(ranking: Ranking, weights: Array) -> Array:
    """The average precision in each sample (b,), NaN where there are no positive examples."""
    counts = ranking.count(weights)
    right = np.cumsum(counts.positive[:, ::-1], axis=1)[:, ::-1]
    taken = right + counts.negative[:, None] - counts.below
    total = counts.positive.sum(1)
    found = (counts.positive * right / np.where(taken > 0, taken, 1.0)).sum(1)
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), np.nan)
