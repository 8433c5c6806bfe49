"""ROUGE-L: the longest common subsequence of words of an answer and an accepted one."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._texts import best, need


@method(source="rouge-score, rougeL, F-measure; Lin, Text Summarization Branches Out 2004", kinds=("text",),
        better="higher")  # fmt: skip
class RougeL(PartsMetric):
    """The mean over rows of the F-measure with the accepted answer that fits best, 0 to 1.

    Words are runs of the letters a to z and digits, so texts in other scripts have none. stemmer: whether endings of
    English words are cut off, as Tk-Instruct does.

    >>> d = Definition("t", "text", ("x",), "text", "rouge_l")
    >>> RougeL().score([("the cats sat", "no")], [("The cat sat down",)], d)  # 3 of 3 and 3 of 4 words
    0.8571428571428571
    """

    def __init__(self, *, stemmer: bool = True) -> None:
        self.stemmer = stemmer

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        return float(self._rows(targets, predictions, definition).mean())

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        found = self._rows(targets, predictions, definition)
        return np.stack([found, np.ones(len(found))], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)

    def check(self, definition: Definition) -> None:
        need("rouge_score", "rouge_l", definition)

    def _rows(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Array:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=self.stemmer)
        return best(targets, predictions, definition, lambda text, said: scorer.score(text, said)["rougeL"].fmeasure)
