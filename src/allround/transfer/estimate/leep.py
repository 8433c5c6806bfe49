"""leep: how well the target's classes follow from the labels that the source's model gives to its rows, softly."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView


@method(
    source="LEEP: Nguyen et al., ICML 2020, arXiv:2002.12462; Transfer-Learning-Library",
    needs=("heads", "labels"),
    cheap=True,
)
def leep(view: TransferView) -> Values:
    """Let the source's model (its specialist, or its head on the base) label the target's rows.

    Formula: value(s, t) = mean over rows of log sum_z p(y | z) p_s(z | x); p(y, z) = mean over rows of [y] p_s(z | x)
    It is known where both tasks have one class for each row.
    Differs: a label of the source that no row gets adds nothing, where the reference code gives NaN.

    >>> round(score(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 1])), 4)
    -0.1985
    """
    return view.table(score, lambda source, target: (view.probabilities(source, target), view.classes(target)))


def score(probabilities: Values, classes: Classes) -> float:
    """Shapes: probabilities of the source's labels (n, labels), the target's classes (n,)."""
    joint = (classes[:, None] == np.unique(classes)).astype(float).T @ probabilities  # (classes, labels)
    mass = joint.sum(0)
    given = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    expected = (probabilities @ given.T)[np.arange(len(classes)), np.unique(classes, return_inverse=True)[1]]
    return float(np.log(expected).mean())
