"""mean: every unknown score is the mean of the known ones; the other models are not looked at."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values


@method(source="the estimate of BenTo: Zhao et al., ICLR 2025, arXiv:2410.13804")
def mean(others: Values, given: Values) -> Values:
    """Take the model to be everywhere as good as it is on average on what is known.

    Shapes: others (M, T), given (T,) with NaN -> (T,)

    >>> mean(np.array([[0.1, 0.9, 0.5]]), np.array([0.2, 0.4, np.nan])).round(3).tolist()
    [0.3, 0.3, 0.3]
    """
    return np.full(len(given), float(np.nanmean(given)))
