"""regression: estimates weighed as they foretold transfer to the other targets best, by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.transfer.blending import standardised
from allround.transfer.matrix import TaskMatrix


@method(
    source="stacked regression: Wolpert, 1992, Breiman, 1996; ridge: Hoerl and Kennard, 1970",
    needs=("measured", "estimates"),
)
def regression(estimates: Sequence[TaskMatrix], measured: TaskMatrix, *, penalty: float = 1.0) -> TaskMatrix:
    """Blend estimates by weights that fit measured transfer to the other targets.

    Formula: value(s, t) = sum_e w_e Z_e(s, t), where w minimises the sum over s and p != t of
    (Z(s, p) - sum_e w_e Z_e(s, p))^2, plus penalty * |w|^2. Z and Z_e are measured transfer and the estimates, with
    mean 0 and spread 1 over the sources of each target; what an estimate does not know counts as its mean, 0. The
    weights for t are fitted without transfer to t.

    >>> truth = TaskMatrix("gain", ("a", "b"), ("p", "t"), [[1.0, 0.0], [0.0, 1.0]])
    >>> good = TaskMatrix("good", ("a", "b"), ("p", "t"), [[5.0, 2.0], [1.0, 3.0]])
    >>> regression([good], truth).take(targets=["t"]).values.round(3).ravel().tolist()
    [-0.667, 0.667]
    """
    first = estimates[0]
    tables = np.stack([np.nan_to_num(standardised(one.gains)) for one in estimates])
    known = np.any([~np.isnan(one.gains) for one in estimates], axis=0).reshape(first.values.shape)
    shared = [name for name in first.sources if name in measured.sources]
    rows = [first.sources.index(name) for name in shared]
    values = np.full(first.values.shape, np.nan)
    for column, target in enumerate(first.targets):
        others = [name for name in measured.targets if name != target and name in first.targets]
        truth = standardised(measured.take(shared, others).gains)
        inputs = tables[:, rows][:, :, [first.targets.index(name) for name in others]][:, ~np.isnan(truth)]
        weights = np.linalg.solve(
            inputs @ inputs.T + penalty * np.eye(len(estimates)), inputs @ truth[~np.isnan(truth)]
        )
        values[:, column] = np.where(known[:, column], weights @ tables[:, :, column], np.nan)
    return TaskMatrix("regression", first.sources, first.targets, values)
