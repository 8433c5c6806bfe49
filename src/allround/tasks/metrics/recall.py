"""Recall: the share of the relevant passages that an answer has among its first k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.metrics._retrieved import Retrieved


@method(source="trec_eval, recall", kinds=("retrieval",), better="higher")
class Recall(Retrieved):
    """The share of a query's relevant passages that are among the first k, 0 to 1.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "retrieval", ("query", "passages"), "text", "recall:k=2")
    >>> Recall(k=2).score([{"a": 2.0, "b": 1.0}], [("a", "c", "b")], d)
    0.5
    """

    def __init__(self, *, k: int = 100) -> None:
        super().__init__(k)

    def query(self, gains: NDArray[np.float64], best: NDArray[np.float64]) -> float:
        return float((gains > 0).sum() / len(best))
