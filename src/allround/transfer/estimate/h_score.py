"""h_score: how much of the features' variance lies between the target's classes."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView


@method(
    source="H-score: Bao et al., ICIP 2019; shrunk: Ibrahim et al., 2021, arXiv:2110.06893; Transfer-Learning-Library",
    needs=("heads", "labels"),
    cheap=True,
)
def h_score(view: TransferView, *, shrunk: bool = True) -> Values:
    """Score the features of the target's rows as the source gives them: those of its specialist, or else the outputs of
    its head on the base.

    Formula: value(s, t) = tr(pinv(C) B), C being the covariance of the features and B that of their class means
    shrunk: C and B are shrunk as Ledoit and Wolf say: C' = (1 - a) C + a tr(C) / d I, B' = (1 - a) B. Without it, the
    score is the number of classes less one wherever there are fewer rows than features.

    >>> round(score(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]), shrunk=False), 4)
    0.8
    """
    return view.table(
        lambda features, classes: score(features, classes, shrunk=shrunk),
        lambda source, target: (view.features(target, source), view.classes(target)),
    )


def score(features: Values, classes: Classes, *, shrunk: bool) -> float:
    """Shapes: features (n, d), classes (n,). NaN where the features are all the same."""
    from sklearn.covariance import ledoit_wolf

    gaps = features - features.mean(0)
    if (np.abs(gaps) <= 1e-9 * np.abs(features).max()).all():
        return float("nan")
    means = np.stack([gaps[classes == one].mean(0) for one in np.unique(classes)])[
        np.unique(classes, return_inverse=True)[1]
    ]
    if not shrunk:
        return float(np.trace(np.linalg.pinv(gaps.T @ gaps, rcond=1e-12, hermitian=True) @ (means.T @ means)))
    covariance, shrinkage = ledoit_wolf(gaps, assume_centered=True)
    inverse = np.linalg.pinv(covariance * len(features), rcond=1e-12, hermitian=True)
    return float((1 - shrinkage) * np.trace(inverse @ (means.T @ means)))
