"""What estimators compute, against hand computations, dense algebra and reference code; and traps of the latter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from allround.transfer.estimate.logme import score as logme
from allround.transfer.matrix import Values
from allround.transfer.view import Classes

RNG = np.random.default_rng(11)


def rows(n: int, d: int, classes: int = 3, seed: int = 0) -> tuple[Values, Classes]:
    """Features of n rows whose class moves one of them, and the class of each."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, classes, n)
    x = draw.normal(size=(n, d))
    x[:, 0] += y
    return x, y


# -- LogME -------------------------------------------------------------------------------------------------------------


def dense_evidence(logs: Values, x: Values, y: Values) -> float:
    """log N(y; 0, X X' / a + I / b) / n by a dense covariance."""
    a, b = np.exp(logs)
    return float(multivariate_normal(np.zeros(len(x)), x @ x.T / a + np.eye(len(x)) / b).logpdf(y)) / len(x)


@pytest.mark.parametrize(("n", "d"), [(12, 40), (12, 12), (40, 12), (30, 3)])
def test_logme_is_the_largest_evidence(n: int, d: int) -> None:
    x, y = rows(n, d, seed=n + d)
    target = (y == 1).astype(float)
    found = logme(x, target[:, None])
    best = max(
        -minimize(lambda logs: -dense_evidence(logs, x, target), start, method="Nelder-Mead",
                  options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000}).fun
        for start in ([0.0, 0.0], [3.0, 2.0])
    )  # fmt: skip
    assert found == pytest.approx(best, abs=1e-6)


def test_logme_of_columns_is_their_mean() -> None:
    x, y = rows(30, 4)
    columns = (y[:, None] == np.arange(3)).astype(float)
    assert logme(x, columns) == pytest.approx(np.mean([logme(x, columns[:, [k]]) for k in range(3)]))


def test_logme_with_fewer_rows_than_features() -> None:
    """The authors' later code leaves (d - k) / 2 * log(alpha) unpaid, k being the rank: many nats a row too much."""
    x, y = rows(50, 384, classes=2)
    target = y[:, None].astype(float)
    assert logme(x, target) < 0
    left, lengths, _ = np.linalg.svd(x, full_matrices=False)
    assert logme(left * lengths, target) == pytest.approx(logme(x, target), abs=1e-9), "directions no row has are free"
