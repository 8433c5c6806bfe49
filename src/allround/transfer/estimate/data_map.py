"""data_map: whether the heads of two tasks learn the same rows early, late, or never for sure."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.special import softmax

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.task import row_key
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView

#: Steps of gradient descent, on all rows, that are an epoch.
_STEPS = 10


@method(
    source="data maps of tasks: Sherif et al., 2023, arXiv:2307.03374; ammarSherif/STG-MTL",
    paper="STG-MTL: Scalable Task Grouping for Multi-Task Learning Using Data Map",
    needs=("features", "labels"),
    symmetric=True,
    self_best=True,
    better="lower",
    cheap=True,
)
def data_map(view: TransferView, *, epochs: int = 10) -> Values:
    """Train a linear head for each task on the frozen base, and compare how sure two of them become of each row of both
    tasks.

    Formula: value(s, t) = root mean square of M_s - M_t over epochs e, rows x of s and of t, and both numbers in
    M_u(e, x): mean and standard deviation (of n - 1; 0 after one epoch) of p_u(y | x) over epochs up to e
    epochs: each of ten steps of gradient descent on all of a task's rows. It is known between classifications.
    Differs: the authors need all tasks labelled on the same rows, and train a shared network; here a row that a task
    has no label for counts with the answer of the task's own head at the end. Their code gives NaN after one epoch.

    >>> maps(np.array([[0.2], [0.4], [0.9]])).round(4).tolist()
    [[[0.2, 0.0]], [[0.3, 0.1414]], [[0.5, 0.3606]]]
    """
    if epochs < 1:
        raise AllroundError(f"train heads for {epochs} epochs", "there must be 1 at least", "give such as 10")

    @cache
    def heads(task: str) -> tuple[Values, Values] | None:
        features, classes = view.common(task), view.classes(task)
        return None if features is None or classes is None else trained(features, classes, epochs)

    @cache
    def seen(task: str, other: str) -> Values:
        """The map of a task's head over the rows of another, (epochs, n, 2)."""
        features, found, classes = view.common(other), heads(task), view.classes(task)
        assert features is not None and found is not None and classes is not None
        chances = softmax(features @ found[0] + found[1], axis=-1)
        own = np.unique(classes, return_inverse=True)[1]
        labels = chances[-1].argmax(1) if other != task else own
        rows, others = view.rows[task].inputs, view.rows[other].inputs
        if len(rows) == len(own) and len(others) == len(labels):  # not words
            known = dict(zip(map(row_key, rows), own.tolist(), strict=True))
            labels = np.array([known.get(row_key(row), one) for row, one in zip(others, labels, strict=True)])
        return maps(chances[:, np.arange(len(labels)), labels])

    def apart(one: str, other: str) -> float:
        gaps = [np.square(seen(one, rows) - seen(other, rows)) for rows in (one, other)]
        return float(np.sqrt(np.concatenate(gaps, axis=1).mean()))

    return view.between(apart, lambda task: None if heads(task) is None else task)


def trained(features: Values, classes: Classes, epochs: int) -> tuple[Values, Values]:
    """A linear head's weights after each epoch, from zero. Shapes: (n, d), (n,) -> (epochs, d, k), (epochs, 1, k)."""
    truth = (classes[:, None] == np.unique(classes)).astype(float)
    mean, spread = features.mean(0), np.maximum(features.std(0), 1e-4)
    x = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    rate = len(x) / np.linalg.norm(x, 2) ** 2
    weight, found = np.zeros((x.shape[1], truth.shape[1])), []
    for _ in range(epochs):
        for _ in range(_STEPS):
            weight = weight - rate * x.T @ (softmax(x @ weight, axis=1) - truth) / len(x)
        found.append(weight)
    weights = np.stack(found)
    slopes = weights[:, :-1] / spread[:, None]
    return slopes, weights[:, -1:] - (mean @ slopes)[:, None]


def maps(chances: Values) -> Values:
    """Mean and standard deviation of each row's probabilities over the epochs so far. Shapes: (e, n) -> (e, n, 2)."""
    count = np.arange(1, len(chances) + 1)[:, None]
    mean = chances.cumsum(0) / count
    squares = np.square(chances).cumsum(0) - count * np.square(mean)
    return np.stack([mean, np.sqrt(np.maximum(squares, 0) / np.maximum(count - 1, 1))], -1)
