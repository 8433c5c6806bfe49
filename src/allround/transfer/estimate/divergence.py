"""divergence: how far apart the inputs of two tasks are, as the base sees them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView

#: Rows whose distances to others are held at once.
_ROWS = 1000
#: Of `js`: directions, and parts that each is cut into.
_DIRECTIONS, _BINS = 8, 10


@method(
    source="MMD: Gretton et al., JMLR 2012; CORAL: Sun and Saenko, ECCV workshops 2016; Jensen-Shannon: Lin, 1991; "
    "Wasserstein of Gaussians: Dowson and Landau, 1982",
    paper="Divergence-Based Domain Transferability for Zero-Shot Classification",
    needs=("features",),
    symmetric=True,
    self_best=True,
    better="lower",
    cheap=True,
)
def divergence(view: TransferView, *, kind: str = "mmd") -> Values:
    """Compare tasks as distributions of the base's features, without labels.

    kind: which divergence; 0 is the same in any case.
    Formula: `mmd`: |mean k(s, .) - mean k(t, .)|, k(x, y) = exp(-|x - y|^2 / w), w the mean of |x - y|^2 over all rows
    of both; `coral`: |C_s - C_t|_F^2 / (4 d^2), of covariances; `js`: the Jensen-Shannon divergence in bits, mean over
    the 8 directions in which the rows of both vary most, each cut into 10 parts with equally many of them;
    `wasserstein`: of normal distributions, sqrt(|m_s - m_t|^2 + tr(C_s + C_t - 2 (C_s^.5 C_t C_s^.5)^.5))
    Differs: the paper's own estimators of these are not known to us.

    >>> round(mmd(np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]])), 4)
    1.315
    """
    ways: dict[str, Callable[[Values, Values], float]] = {
        "mmd": mmd,
        "coral": coral,
        "js": jensen_shannon,
        "wasserstein": wasserstein,
    }
    if kind not in ways:
        raise AllroundError(f"compare tasks by the divergence '{kind}'", "there is none", suggestion(kind, ways))
    return view.between(ways[kind], view.common)


def mmd(one: Values, other: Values) -> float:
    """The maximum mean discrepancy with one Gaussian kernel. Shapes: (n, d), (m, d)."""
    both = np.concatenate([one, other])
    width = 2 * float(both.var(0).sum())
    if width <= 1e-12 * float(np.square(both).mean()):
        return 0.0

    def kernel(a: Values, b: Values) -> float:
        parts = (a[start : start + _ROWS] for start in range(0, len(a), _ROWS))
        sums = [float(np.exp(-cdist(part, b, "sqeuclidean") / width).sum()) for part in parts]
        return float(np.sum(sums)) / (len(a) * len(b))

    return float(np.sqrt(max(kernel(one, one) + kernel(other, other) - 2 * kernel(one, other), 0)))


def coral(one: Values, other: Values) -> float:
    """The distance of the covariances. Shapes: (n, d), (m, d)."""
    return float(np.square((_covariance(one) - _covariance(other)) / (2 * one.shape[1])).sum())


def jensen_shannon(one: Values, other: Values) -> float:
    """The Jensen-Shannon divergence of histograms along principal directions. Shapes: (n, d), (m, d)."""
    both = np.concatenate([one, other])
    ways = np.linalg.eigh(_covariance(both))[1][:, ::-1][:, :_DIRECTIONS]
    ways = ways * np.sign(ways[np.abs(ways).argmax(0), np.arange(ways.shape[1])])
    found = []
    for way in ways.T:
        edges = np.quantile(both @ way, np.linspace(0, 1, _BINS + 1)[1:-1])
        p, q = (np.bincount(np.searchsorted(edges, part @ way), minlength=_BINS) / len(part) for part in (one, other))
        middle = (p + q) / 2
        found.append(sum(float(a[a > 0] @ np.log2(a[a > 0] / middle[a > 0])) for a in (p, q)) / 2)
    return float(np.mean(found))


def wasserstein(one: Values, other: Values) -> float:
    """The 2-Wasserstein distance of normal distributions. Shapes: (n, d), (m, d)."""
    first, second = _covariance(one), _covariance(other)
    root = _root(first)
    apart = float(np.square(one.mean(0) - other.mean(0)).sum())
    spread = float(np.trace(first) + np.trace(second) - 2 * np.trace(_root(root @ second @ root)))
    return float(np.sqrt(max(apart + spread, 0)))


def _covariance(values: Values) -> Values:
    gaps = values - values.mean(0)
    return np.asarray(gaps.T @ gaps / len(values))


def _root(matrix: Values) -> Values:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)
