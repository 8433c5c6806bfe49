"""Token F1: how far the words of an answer are those of an accepted one."""

from __future__ import annotations

from collections import Counter

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._texts import best, normalised


@method(source="SQuAD 1.1, evaluate-v1.1.py, f1_score", kinds=("text",), better="higher")
class TokenF1(PartsMetric):
    """The mean over rows of the F1 between the words of the answer and those of the accepted answer that fits best, 0
    to 1.

    Words are as for `exact_match`, in any order. articles: whether a, an and the count; in SQuAD they do not.

    >>> d = Definition("t", "text", ("x",), "text", "token_f1")
    >>> TokenF1(articles=True).score([("the red car", "a bus")], [("A red car!",)], d)  # 2 of 3 words, both ways
    0.6666666666666666
    """

    def __init__(self, *, articles: bool = False) -> None:
        self.articles = articles

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        return float(best(targets, predictions, definition, self._f1).mean())

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        found = best(targets, predictions, definition, self._f1)
        return np.stack([found, np.ones(len(found))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    def _f1(self, accepted: str, said: str) -> float:
        wanted, given = (Counter(normalised(text, articles=self.articles).split()) for text in (accepted, said))
        if not wanted or not given:
            return float(wanted == given)
        return 2 * (wanted & given).total() / (wanted.total() + given.total())
