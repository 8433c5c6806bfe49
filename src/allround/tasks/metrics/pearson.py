"""Pearson correlation: how well answers follow targets along a straight line."""

from __future__ import annotations

import warnings

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric

#: A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


@method(source="scipy.stats.pearsonr", kinds=("regression", "similarity"), better="higher")
class Pearson(PartsMetric):
    """Pearson's r, -1 to 1; by convention 0 where answers or targets are constant, or not finite.

    >>> d = Definition("t", "regression", ("x",), "text", "pearson")
    >>> round(Pearson().score(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), d), 4)
    0.5
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from scipy.stats import NearConstantInputWarning, pearsonr

        if not (_varies(targets) and _varies(predictions)):
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NearConstantInputWarning)
            return float(np.nan_to_num(pearsonr(targets, predictions).statistic))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        x, y = _centred(targets), _centred(predictions)
        return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)

    def value(self, sums: Array, definition: Definition) -> Array:
        x, y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).T
        variances = xx - x * x, yy - y * y
        varies = (variances[0] > _ROUNDING * xx) & (variances[1] > _ROUNDING * yy)
        r: Array = (xy - x * y) / np.sqrt(np.where(varies, variances[0] * variances[1], 1.0))
        return np.where(varies, np.clip(r, -1.0, 1.0), 0.0)


def _varies(values: Encoded) -> bool:
    return bool(np.isfinite(values).all()) and len(values) > 1 and bool(np.ptp(values) > 0)


def _centred(values: Encoded) -> Array:
    """Moved and scaled, which leaves r as it is, so that sums of squares lose no digits."""
    if not _varies(values):
        return np.zeros(len(values))
    scaled = np.asarray(values, dtype=np.float64) / np.abs(values).max()
    scaled = scaled - scaled.mean()
    found: Array = scaled / np.abs(scaled).max()
    return found
