"""additive: the mean of the other models on a task, plus how far this model lies above it on the known tasks."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values


@method(source="two-way layout without interaction: Scheffe, The Analysis of Variance, 1959, chapter 4")
def additive(others: Values, given: Values) -> Values:
    """Take tasks to differ by as much for this model as for the others.

    Shapes: others (M, T), given (T,) with NaN -> (T,)
    Formula: score_t = c_t + mean over known k of (given_k - c_k), c the means of the others

    >>> additive(np.array([[0.1, 0.9, 0.5], [0.3, 0.7, 0.7]]), np.array([0.3, 0.9, np.nan])).round(3).tolist()
    [0.3, 0.9, 0.7]
    """
    centre = others.mean(0)
    return np.asarray(centre + np.nanmean(given - centre))
