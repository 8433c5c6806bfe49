"""one_step: the score from size and data at once."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.forecasting import LadderRuns, fit_power_law
from allround.transfer.matrix import Values


@method(source="the single step that Bhagia et al. compare with, 2024, arXiv:2412.04403")
def one_step(runs: LadderRuns, at: Values) -> Values:
    """Fit a power law of size and data to the scores at the ends of runs; the losses are not looked at.

    Shapes: at (K, 2), parameters and data -> (K,)
    Formula: score = E - e^a / N^alpha - e^b / D^beta

    >>> sizes = [(n, d) for n in (1e6, 4e6, 1.6e7) for d in (1e8, 1e9)]
    >>> score = np.array([0.9 - 20 / n**0.3 - 60 / d**0.3 for n, d in sizes])
    >>> runs = LadderRuns(*np.array(sizes).T, np.ones(6), score, np.ones(6))
    >>> truth = 0.9 - 20 / 1e8**0.3 - 60 / 1e10**0.3
    >>> bool(abs(one_step(runs, np.array([[1e8, 1e10]]))[0] - truth) < 0.03)
    True
    """
    ends = runs.final > 0
    law = fit_power_law(np.stack([runs.parameters, runs.data], 1)[ends], np.maximum(runs.score[ends], 1e-6), sign=-1.0)
    return np.asarray(np.minimum(law(at), 1.0))
