"""transrate: how many bits the target's classes save in describing the features."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView


@method(
    source="TransRate: Huang et al., ICML 2022, arXiv:2106.09362; Transfer-Learning-Library",
    needs=("heads", "labels"),
    cheap=True,
)
def transrate(view: TransferView, *, distortion: float = 1e-4) -> Values:
    """Score the features of the target's rows as the source gives them: those of its specialist, or else the outputs of
    its head on the base.

    Formula: value(s, t) = R(F) - mean over classes of R(F_c), R(F) = log det(I + F'F / (n distortion)) / 2, F centred
    distortion: of the code; the smaller, the finer. Classes count the same, however many rows they have, as in the
    authors' code. The score depends on the scale of features, so that it compares sources of one scale.

    >>> round(score(np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]]), np.array([0, 0, 1, 1]), 1.0), 4)
    0.2939
    """
    return view.table(
        lambda features, classes: score(features, classes, distortion),
        lambda source, target: (view.features(target, source), view.classes(target)),
    )


def score(features: Values, classes: Classes, distortion: float) -> float:
    """Shapes: features (n, d), classes (n,)."""
    centred = features - features.mean(0)
    within = [_rate(centred[classes == one], distortion) for one in np.unique(classes)]
    return _rate(centred, distortion) - float(np.mean(within))


def _rate(features: Values, distortion: float) -> float:
    n, d = features.shape
    products = features.T @ features if d <= n else features @ features.T
    return float(np.linalg.slogdet(np.eye(len(products)) + products / (n * distortion))[1]) / 2
