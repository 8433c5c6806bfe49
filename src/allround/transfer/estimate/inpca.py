"""inpca: how differently two sources would answer all tasks, each with a head of class means."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView

#: The least overlap of two predictions of a row.
_LEAST = 1e-6


@method(
    source="InPCA: Ramesh et al., ICML 2023, arXiv:2210.17011; grasp-lyrl/picture_of_space_of_tasks",
    paper="A picture of the space of typical learnable tasks",
    needs=("heads", "labels"),
    symmetric=True,
    self_best=True,
    better="lower",
    cheap=True,
)
def inpca(view: TransferView, *, sharpness: float = 10.0) -> Values:
    """Compare two tasks' models by their answers to the same rows with the same classes. Each model answers every
    classification task of the view, from its features (or else the outputs of its head on the base), by the nearest
    mean of a class.

    Formula: value(s, t) = mean over tasks u of -mean over rows of u of log sum_c sqrt(p_s(c | x) p_t(c | x)), the sum
    being at least 1e-6; p(c | x) ~ exp(-sharpness |f(x) - m_c|^2 / v), where m_c is the mean of the features of class
    c, and v the mean of |f(x) - m_y|^2 over rows x of class y
    sharpness: how sure the heads are. Differs: the authors do not divide by v, so that their heads are as sure as the
    scale of the features makes them.

    >>> one, other = np.array([[[1.0, 0.0]]]), np.array([[[0.5, 0.5]]])
    >>> round(distance(one, other), 4)
    0.3466
    """
    asked = {name: classes for name in view.rows if (classes := view.classes(name)) is not None}

    def answers(by: str) -> dict[str, Values]:
        found = {}
        for task, classes in asked.items():
            features = view.features(task, by)
            if features is not None:
                found[task] = imprinted(features, classes, sharpness)
        return found

    def apart(one: dict[str, Values], other: dict[str, Values]) -> float:
        shared = [distance(one[task], other[task]) for task in one if task in other]
        return float(np.mean(shared)) if shared else float("nan")

    return view.between(apart, answers)


def imprinted(features: Values, classes: Classes, sharpness: float) -> Values:
    """The probability of each class by the distance to the mean of its rows. Shapes: (n, d), (n,) -> (n, classes)."""
    names, places = np.unique(classes, return_inverse=True)
    means = np.stack([features[classes == one].mean(0) for one in names])
    squares = np.square(features[:, None] - means).sum(-1)
    spread = squares[np.arange(len(features)), places].mean()
    logs = -sharpness * squares / max(float(spread), 1e-12 * float(np.square(features).mean()), 1e-300)
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def distance(one: Values, other: Values) -> float:
    """The Bhattacharyya distance, mean over rows. Shapes: (..., classes) both."""
    return float(-np.log(np.maximum(np.sqrt(one * other).sum(-1), _LEAST)).mean())


def embedding(distances: Values, dimensions: int = 2) -> tuple[Values, Values]:
    """A picture of tasks: coordinates (n, dimensions) from distances (n, n), and the eigenvalue of each axis; the
    longest axes first. Squared distances along an axis whose eigenvalue is below zero count as negative.

    >>> embedding(np.array([[0.0, 4.0], [4.0, 0.0]]), 1)[0].round(3).tolist()
    [[-1.0], [1.0]]
    """
    centre = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances @ centre)
    order = np.argsort(-np.abs(values), kind="stable")[:dimensions]
    vectors = vectors[:, order] * -np.sign(vectors[0, order] + (vectors[0, order] == 0))
    return vectors * np.sqrt(np.abs(values[order])), values[order]
