"""cka: whether two sources see the same rows as alike."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="linear CKA: Kornblith et al., ICML 2019, arXiv:1905.00414; unbiased: Song et al., JMLR 2012, and Nguyen et "
    "al., ICLR 2021, arXiv:2010.15327",
    needs=("heads",),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def cka(view: TransferView) -> Values:
    """Compare what two tasks' models make of the rows of both: their features, or else the outputs of their heads on
    the base.

    Formula: value(s, t) = HSIC(F_s, F_t) / sqrt(HSIC(F_s, F_s) HSIC(F_t, F_t)), F over the training rows of s and t,
    with linear kernels and the unbiased estimate of HSIC, so that few rows with many features are not alike by chance

    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0], [0.0, 4.0]])
    >>> round(score(x, 5 * x[:, ::-1] + 1), 4)
    1.0
    """

    def seen(by: str, source: str, target: str) -> Values | None:
        rows = [name for name in sorted({source, target}) if name in view.rows]
        parts = [view.common(name, by) for name in rows]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if known and len(known) == len(parts) else None

    return view.table(score, lambda source, target: (seen(source, source, target), seen(target, source, target)))


def score(one: Values, other: Values) -> float:
    """Shapes: features of the same rows, (n, d) and (n, e). NaN for fewer than 4 rows, and for features that are all
    the same."""
    if len(one) < 4:
        return float("nan")
    one, other = one - one.mean(0), other - other.mean(0)
    own = _hsic(one, one), _hsic(other, other)
    scales = float(np.square(one).sum()), float(np.square(other).sum())
    if any(h <= 1e-12 * scale**2 for h, scale in zip(own, scales, strict=True)):
        return float("nan")
    return _hsic(one, other) / float(np.sqrt(own[0] * own[1]))


def _hsic(x: Values, y: Values) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion, times n (n - 3), without kernel matrices:
    the kernels x x' and y y' have their diagonals taken out."""
    n = len(x)
    a, b = np.square(x).sum(1), np.square(y).sum(1)
    rows_x, rows_y = x @ x.sum(0) - a, y @ y.sum(0) - b
    trace = float(np.square(x.T @ y).sum() - a @ b)
    return trace + float(rows_x.sum() * rows_y.sum()) / ((n - 1) * (n - 2)) - 2 * float(rows_x @ rows_y) / (n - 2)
