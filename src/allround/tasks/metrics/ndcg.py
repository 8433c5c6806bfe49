"""nDCG: how near the most relevant passages stand to the top, by their grades."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.metrics._retrieved import Retrieved, discounted


@method(source="trec_eval, ndcg_cut; Järvelin and Kekäläinen, ACM TOIS 20(4), 2002", kinds=("retrieval",),
        better="higher")  # fmt: skip
class Ndcg(Retrieved):
    """The discounted gain of an answer, as a share of that of the best one, 0 to 1. The gain is the grade itself, as
    in trec_eval and MTEB, not 2 to its power.

    k: how many passages are looked at.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "retrieval", ("query", "passages"), "text", "ndcg")
    >>> Ndcg().score([{"a": 1.0, "b": 1.0}], [("a", "c", "b")], d)  # 1.5 of 1 + 1 / log2(3)
    0.9197207891481876
    """

    def __init__(self, *, k: int = 10) -> None:
        super().__init__(k)

    def query(self, gains: NDArray[np.float64], best: NDArray[np.float64]) -> float:
        return discounted(gains) / discounted(best[: self.k])
