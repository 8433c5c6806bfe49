"""rank_sum: the mean of the ranks that estimates give a source for a target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.transfer.blending import ranked
from allround.transfer.matrix import TaskMatrix


@method(source="Borda, 1781: the rank of each candidate summed over voters", needs=("estimates",))
def rank_sum(estimates: Sequence[TaskMatrix], measured: TaskMatrix | None = None) -> TaskMatrix:
    """Blend estimates whose values are on different scales. The matrix is between 0 and 1.

    Formula: value(s, t) = mean over estimates e of rank_e(s, t), ranks between 0 (worst) and 1 (best) within t; equal
    sources share their ranks, and a pair that an estimate does not know is left to the others.
    Differs: the target's own estimates are all that is looked at; `measured` is not.

    >>> one = TaskMatrix("one", ("a", "b", "c"), ("t",), [[3.0], [2.0], [1.0]])
    >>> two = TaskMatrix("two", ("a", "b", "c"), ("t",), [[9.0], [0.0], [10.0]])
    >>> rank_sum([one, two]).values.ravel().tolist()
    [0.75, 0.25, 0.5]
    """
    ranks = np.stack([ranked(one.gains) for one in estimates])
    known = ~np.isnan(ranks)
    counts = known.sum(0)
    means = np.divide(np.where(known, ranks, 0).sum(0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return TaskMatrix("rank_sum", estimates[0].sources, estimates[0].targets, means)
