"""Where a measurement is worth most: pairs of tasks whose truth may still change which source is best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def expected_improvement(estimates: Array, measured: Array) -> Array:
    """How much each pair that was not measured may better its target's best source, in the unit of the measurements.

    The truth of a pair is taken to be normal around a straight line of its estimate, fitted by least squares to what
    was measured: below the line, its residual spread. A target's best is the best measured source, or 0, which is no
    source at all. This is the expected improvement of Bayesian optimisation (Jones, Schonlau and Welch, 1998).

    estimates: (sources, targets), larger is better; they are ranked within a target first, so that units do not count.
    measured: (sources, targets), NaN where a pair was not measured. Returns (sources, targets), 0 where a pair was
    measured or has no estimate. Before three pairs are measured, the rank of the estimate itself is given.

    >>> import numpy as np
    >>> estimates = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    >>> expected_improvement(estimates, np.full((3, 2), np.nan)).argmax(0)
    array([0, 2])
    """
    place = ranked(estimates)
    known = ~np.isnan(measured) & ~np.isnan(place)
    open_pairs = np.isnan(measured) & ~np.isnan(place)
    if known.sum() < 3:
        return np.where(open_pairs, 1 + np.nan_to_num(place), 0.0)
    x, y = place[known], measured[known]
    slope = max(0.0, float(np.cov(x, y)[0, 1] / x.var(ddof=1))) if x.var() > 0 else 0.0
    centre = float(y.mean() - slope * x.mean())
    left = y - centre - slope * x
    spread = max(float(np.sqrt(left @ left / max(1, len(y) - 2))), 1e-9)
    best = np.fmax.reduce(np.where(np.isnan(measured), 0.0, measured), axis=0, initial=0.0)
    above = (centre + slope * place - best) / spread
    density = np.exp(-(above**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(open_pairs, spread * (above * ndtr(above) + density), 0.0)


def ranked(values: Array) -> Array:
    """The rank of each source within a target, from -0.5 (worst) to 0.5; equal values share a rank, NaN has none."""
    found = np.full(values.shape, np.nan)
    for target in range(values.shape[1]):
        rows = np.flatnonzero(~np.isnan(values[:, target]))
        if len(rows) > 1:
            column = values[rows, target]
            below = (column[:, None] > column).sum(1) + 0.5 * ((column[:, None] == column).sum(1) - 1)
            found[rows, target] = below / (len(rows) - 1) - 0.5
        elif len(rows):
            found[rows, target] = 0.0
    return found
