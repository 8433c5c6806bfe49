"""MRR: one over the rank of the first relevant passage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.metrics._retrieved import Retrieved


@method(source="trec_eval, recip_rank, of the first k passages", kinds=("retrieval",), better="higher")
class Mrr(Retrieved):
    """The mean reciprocal rank of the first relevant passage; 0 where none is among the first k.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "retrieval", ("query", "passages"), "text", "mrr")
    >>> Mrr().score([{"a": 1.0}, {"b": 1.0}], [("c", "a"), ("b",)], d)
    0.75
    """

    def __init__(self, *, k: int = 10) -> None:
        super().__init__(k)

    def query(self, gains: NDArray[np.float64], best: NDArray[np.float64]) -> float:
        hits = np.flatnonzero(gains > 0)
        return 1.0 / (1 + int(hits[0])) if len(hits) else 0.0
