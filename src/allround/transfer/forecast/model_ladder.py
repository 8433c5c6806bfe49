"""model_ladder: first the loss from size and data, then the score from the loss."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.forecasting import LadderRuns, fit_power_law
from allround.transfer.matrix import Values


@method(
    source="Bhagia et al., 2024, arXiv:2412.04403; src/scaling/fitting_functions.py and src/scripts/step2.py of "
    "allenai/OLMo-ladder",
    paper="Establishing Task Scaling Laws via Compute-Efficient Model Ladders",
)
def model_ladder(runs: LadderRuns, at: Values) -> Values:
    """Chain two fits: a power law of the loss over the ends of runs, and a sigmoid of the score over all states.

    Shapes: at (K, 2), parameters and data -> (K,)
    Formula: L = e^a / N^alpha + e^b / D^beta + E, then score = s / (1 + e^(-k (L - l0))) + c, fitted by least squares
    with the point of no loss and the score 1 added
    Differs: averages over the last states of a run, and leaving out its first tenth, are up to who gives the runs.

    >>> sizes = [(n, d) for n in (1e6, 4e6, 1.6e7) for d in (1e8, 1e9)]
    >>> loss = np.array([50 / n**0.3 + 300 / d**0.3 + 0.4 for n, d in sizes])
    >>> runs = LadderRuns(*np.array(sizes).T, loss, 1 - 0.75 / (1 + np.exp(-4 * (loss - 1.2))), np.ones(6))
    >>> truth = 1 - 0.75 / (1 + np.exp(-4 * (50 / 1e8**0.3 + 300 / 1e10**0.3 + 0.4 - 1.2)))
    >>> bool(abs(model_ladder(runs, np.array([[1e8, 1e10]]))[0] - truth) < 0.02)
    True
    """
    from scipy.optimize import curve_fit

    ends = runs.final > 0
    loss = fit_power_law(np.stack([runs.parameters, runs.data], 1)[ends], runs.loss[ends])

    def score(losses: Values, spread: float, middle: float, steep: float, top: float) -> Values:
        return np.asarray(spread / (1 + np.exp(np.clip(-steep * (losses - middle), -500, 500))) + top)

    bounds = [-1.0, 0.0, 0.0, 0.0], [0.0, np.inf, np.inf, 1.0]
    weights, _ = curve_fit(score, np.append(runs.loss, 0.0), np.append(runs.score, 1.0), p0=[-0.75, 0.9, 3.0, 1.0],
                           bounds=bounds, maxfev=500_000)  # fmt: skip
    return score(loss(at), *weights)
