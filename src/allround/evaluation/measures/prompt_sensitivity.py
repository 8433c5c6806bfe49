"""prompt_sensitivity: how much answers depend on the words in which a task is put."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.measuring import Measured, MeasureView, mean_of, measured
from allround.evaluation.predictions import Predictions
from allround.tasks.kind import kind
from allround.tasks.metric import Array, better


@method(
    source="Errica et al., 2024, arXiv:2406.12334, sensitivity and consistency; written from the formulas alone",
    paper="What Did I Do Wrong? Quantifying LLMs' Sensitivity and Consistency to Prompt Engineering",
)
def prompt_sensitivity(view: MeasureView) -> Sequence[Measured]:
    """For each task with several prompts: how far scores spread, how often labels change, and how alike rows of one
    class are answered.

    Formula: p_i = the shares of labels that row i is given over Q prompts; sensitivity = mean_i of the entropy of p_i /
    log(labels), 0 where all prompts agree; consistency = mean over classes of 1 - the mean over pairs of rows of a
    class of 1/2 sum |p_i - p_j|. Spread: the score of the best prompt less that of the worst.
    Differs: entropies are not clipped at 1e-5.
    """
    asked = "measure the sensitivity to prompts"
    found = []
    for task, made in view.several(asked).items():
        found.append(_spread(task, made))
        if kind(made[0].definition.kind).labelled and np.asarray(made[0].targets).ndim == 1:
            shares = shares_of(made)
            logs = np.log(np.where(shares > 0, shares, 1.0))
            entropy = -(shares * logs).sum(1) / np.log(shares.shape[1])
            found.append(mean_of(f"sensitivity to prompts of {task}", task, entropy))
            found.append(_consistency(task, shares, np.asarray(made[0].targets)))
    return found


def shares_of(made: Sequence[Predictions]) -> Array:
    """(n, labels): how often each row is given each label.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> shares_of([Predictions(d, "test", np.array([0]), np.array([said])) for said in (0, 1)]).tolist()
    [[0.5, 0.5]]
    """
    labels = np.eye(len(made[0].definition.labels))
    return np.asarray(np.mean([labels[np.asarray(one.predictions)] for one in made], axis=0))


def _spread(task: str, made: Sequence[Predictions]) -> Measured:
    from dataclasses import replace

    drawn = Bootstrap.make({(str(i), task): replace(one, definition=made[0].definition) for i, one in enumerate(made)})
    rows = np.stack([drawn.resampled[str(i), task] for i in range(len(made))])
    points = [drawn.points[str(i), task] for i in range(len(made))]
    share = better(made[0].definition.metric) == "higher"
    return Measured(f"spread over prompts of {task}", max(points) - min(points), rows.max(0) - rows.min(0), share)


def _consistency(task: str, shares: Array, targets: Array) -> Measured:
    classes = [shares[targets == label] for label in np.unique(targets)]
    places = [np.flatnonzero(targets == label) for label in np.unique(targets)]

    def statistic(weights: Array) -> Array:
        found = np.stack([1 - pair_distance(rows, weights[:, own]) for rows, own in zip(classes, places, strict=True)])
        known = np.isfinite(found)
        return np.asarray(np.where(known, found, 0).sum(0) / np.maximum(known.sum(0), 1))

    return measured(f"consistency over prompts of {task}", task, len(targets), statistic)


def pair_distance(rows: Array, weights: Array) -> Array:
    """(b,): the mean over pairs of different rows of 1/2 sum |p_i - p_j|, rows counted by weights, (b, n); NaN where
    there is no pair. Sorted, the sum over pairs of |x_i - x_j| follows from running sums.

    >>> pair_distance(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), np.ones((1, 3))).round(3).tolist()
    [0.667]
    """
    total = weights.sum(1)
    pairs = (total**2 - np.square(weights).sum(1)) / 2
    summed = np.zeros(len(weights))
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        w, x = weights[:, order], column[order]
        before, below = np.cumsum(w, 1) - w, np.cumsum(w * x, 1) - w * x
        summed += (w * (x * before - below)).sum(1)
    return np.asarray(np.divide(summed / 2, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
