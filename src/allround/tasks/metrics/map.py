"""MAP: the mean over the relevant passages of the precision at their ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.metrics._retrieved import Retrieved


@method(source="trec_eval, map and map_cut", kinds=("retrieval",), better="higher")
class Map(Retrieved):
    """Mean average precision: over a query's relevant passages, the precision at the rank of each that is among the
    first k, and 0 for the others.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "retrieval", ("query", "passages"), "text", "map")
    >>> round(Map().score([{"a": 1.0, "b": 1.0}], [("a", "c", "b")], d), 4)  # (1 + 2/3) / 2
    0.8333
    """

    def __init__(self, *, k: int = 100) -> None:
        super().__init__(k)

    def query(self, gains: NDArray[np.float64], best: NDArray[np.float64]) -> float:
        hits = gains > 0
        return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].sum() / len(best))
