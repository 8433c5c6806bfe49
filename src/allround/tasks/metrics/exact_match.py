"""Exact match: the share of answers that are an accepted one, word for word."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._texts import best, normalised, number


@method(
    source="Tk-Instruct, eval/automatic/evaluation.py, exact_match; articles=false is that of SQuAD 1.1",
    kinds=("text",),
    better="higher",
)
class ExactMatch(PartsMetric):
    """The share of rows whose answer equals an accepted one, 0 to 1.

    Case, punctuation and white space do not count. articles: whether a, an and the count. numbers: whether two numbers
    are compared by their size, so that "1,000.0" is "1000"; in a text that is not a number, words are compared.
    Differs: of a text of punctuation alone, the punctuation counts, so that "+" is not "-".

    >>> d = Definition("t", "text", ("x",), "text", "exact_match")
    >>> ExactMatch().score([("Paris",), ("4", "four")], [("paris.",), ("five",)], d)
    0.5
    """

    def __init__(self, *, articles: bool = True, numbers: bool = False) -> None:
        self.articles, self.numbers = articles, numbers

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        return float(best(targets, predictions, definition, self._equal).mean())

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        right = best(targets, predictions, definition, self._equal)
        return np.stack([right, np.ones(len(right))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    def _equal(self, accepted: str, said: str) -> float:
        if self.numbers and (wanted := number(accepted)) is not None and (given := number(said)) is not None:
            return float(wanted == given)
        return float(normalised(accepted, articles=self.articles) == normalised(said, articles=self.articles))
