"""logme: how well the target's labels follow from features that the source gives, by the evidence of a linear model."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView

#: Ratios of the precision of weights to that of noise that are tried, as logarithms above the features' mean variance.
_GRID = np.linspace(-16, 16, 65)


@method(
    source="LogME: You et al., ICML 2021, arXiv:2102.11005",
    needs=("heads", "labels"),
    cheap=True,
)
def logme(view: TransferView) -> Values:
    """Score the features of the target's rows as the source gives them: those of its specialist, or else the outputs of
    its head on the base and a constant.

    Formula: value(s, t) = mean over columns y of the target's labels of max_(a, b) log p(y | F, a, b) / n, where
    y ~ N(0, F F' / a + I / b): a linear model without an intercept. Columns are one for each class, or the numbers.
    Differs: the maximum is found exactly, on the eigenvalues of F'F; the authors' later code leaves out directions that
    the rows do not span, so that it is far off with fewer rows than features, and adds a column for each class that the
    rows do not show.

    >>> from allround.tasks.suite import Suite
    >>> from allround.models.encoders.small_image import SmallImage
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> logme(view).shape
    (2, 2)
    """

    def read(source: str, target: str) -> tuple[Values | None, Values | None]:
        features = view.features(target, source)
        if features is not None and source not in view.models:
            features = np.column_stack([features, np.ones(len(features))])
        return features, view.columns(target)

    return view.table(score, read)


def score(features: Values, columns: Values) -> float:
    """The mean over columns of the log evidence of each row. Shapes: features (n, d), columns (n, k).

    >>> round(score(np.array([[1.0], [2.0], [-1.0]]), np.array([[1.0], [2.1], [-1.0]])), 4)
    0.4038
    """
    left, lengths, _ = np.linalg.svd(features, full_matrices=False)
    variances = lengths**2
    middle = np.log(max(float(variances.mean()), 1e-300))
    projected = (left.T @ columns) ** 2
    rest = np.maximum((columns**2).sum(0) - projected.sum(0), 0)
    return float(np.mean([_evidence(variances, part, out, len(columns), middle)
                          for part, out in zip(projected.T, rest, strict=True)]))  # fmt: skip


def _evidence(variances: Values, projected: Values, rest: float, n: int, middle: float) -> float:
    """The largest log evidence of a column over both precisions, for each row: the precision of the noise has a closed
    form, so that their ratio is all that is searched for."""

    def lost(log_ratios: Values) -> Values:
        shrunk = 1 / (1 + variances * np.exp(-log_ratios)[:, None])
        squares = np.maximum(shrunk @ projected + rest, 1e-12 * n)
        return np.asarray(0.5 * (np.log(squares / n) + 1 + np.log(2 * np.pi) - np.log(shrunk).sum(1) / n))

    grid = middle + _GRID
    best = int(lost(grid).argmin())
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda one: float(lost(np.array([one]))[0]), bounds=around, method="bounded", options={"xatol": 1e-6}
    )
    return -min(float(found.fun), float(lost(grid[[best]])[0]))
