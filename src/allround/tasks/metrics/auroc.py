"""AUROC: how probable it is that an example with a label scores higher than one without it."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Metric, Resampler
from allround.tasks.metrics._labels import each_label, place_of
from allround.tasks.metrics._ranking import Ranking, mean_where


@method(
    source="scikit-learn, roc_auc_score",
    needs=("scores",),
    kinds=("classification", "multilabel"),
    better="higher",
)
class Auroc(Metric):
    """The area under the ROC curve, 0 to 1; chance is 0.5.

    Of two labels that exclude each other there is one area. Of more, it is the mean over the labels, each against the
    rest, without the labels that no example has or all have; 0.5 where none is left.

    label: only the area of this one.

    From weights: each positive example counts the negative ones below it, and half of those beside it.

    >>> d = Definition("t", "classification", ("x",), "text", "auroc", ("no", "yes"))
    >>> scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> Auroc().score(np.array([0, 0, 1, 1]), scores, d)
    0.75
    """

    def __init__(self, *, label: str | None = None) -> None:
        self.label = label

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import roc_auc_score

        found = [
            roc_auc_score(has, scores)
            for has, scores in each_label(targets, predictions, definition, self._place(definition))
            if has.any() and not has.all()
        ]
        return float(np.mean(found)) if found else 0.5

    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        place = self._place(definition)
        rankings = [Ranking(*one) for one in each_label(targets, predictions, definition, place)]
        return lambda weights: mean_where([_area(ranking, weights) for ranking in rankings], 0.5)

    def check(self, definition: Definition) -> None:
        self._place(definition)

    def _place(self, definition: Definition) -> int | None:
        return place_of(self.label, definition, "auroc")


def _area(ranking: Ranking, weights: Array) -> Array:
    """The area in each sample (b,), NaN where there are no positive or no negative examples."""
    counts = ranking.count(weights)
    pairs = counts.positive.sum(1) * counts.negative
    above = (counts.positive * (counts.below + counts.beside / 2)).sum(1)
    return np.where(pairs > 0, above / np.where(pairs > 0, pairs, 1.0), np.nan)
