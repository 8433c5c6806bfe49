"""out_of_scope: how well rows that belong to no label are told from those that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.evaluation.measuring import Measured, MeasureView, measured, scores_of
from allround.tasks.metric import Array


@method(
    source="Larson et al., EMNLP 2019, arXiv:1909.02027, in-scope accuracy and out-of-scope recall",
    paper="An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction",
)
def out_of_scope(
    view: MeasureView, *, label: str = "oos", by: Literal["label", "confidence"] = "label", drop: float = 0.01
) -> Sequence[Measured]:
    """For each task that has the label of rows out of scope: the accuracy of rows in scope, and the share of the others
    that is refused.

    by: what refuses a row: the probability of that label, or one less the largest probability of the other labels.
    Formula: accuracy in scope and recall out of scope, by the answers as they are; AUROC of the refusal; and the
    largest recall of a threshold by which no more than `drop` of the rows in scope are lost that the best of the other
    labels answers rightly.
    Differs: the paper's threshold is tuned on validation rows; the last number has its threshold from the rows that it
    is measured on, as AUROC has all of them. The binary classifier before the task is a system of its own.
    """
    asked = f"measure how '{label}' is found"
    tasks = [name for name, made in view.predictions.items() if label in made.definition.labels]
    if not tasks:
        raise AllroundError(asked, "no task has this label", "name the label of these rows: out_of_scope:label=NAME")
    found: list[Measured] = []
    for task in tasks:
        made = view.predictions[task]
        place, scores, targets = made.definition.labels.index(label), scores_of(made, asked), np.asarray(made.targets)
        outside, said = np.asarray(targets == place, dtype=bool), np.asarray(made.predictions)
        if outside.all() or not outside.any():
            raise AllroundError(asked, f"the rows of '{task}' are of one sort", "give rows in scope and out of scope")
        others = np.where(np.arange(scores.shape[1]) == place, -np.inf, scores)
        best, refusal = others.argmax(1), scores[:, place] if by == "label" else 1 - others.max(1)
        right = ~outside & (best == targets)
        refused = refusal > threshold(refusal[~outside], right[~outside], drop)
        rows = len(targets)
        found += [
            measured(f"accuracy in scope of {task}", task, rows, _share(said == targets, ~outside)),
            measured(f"recall out of scope of {task}", task, rows, _share(said == place, outside)),
            measured(f"AUROC out of scope of {task}", task, rows, partial(auroc, refusal, outside)),
            measured(f"recall of {task} with {100 * drop:g} points of accuracy in scope given up", task, rows,
                     _share(refused, outside)),
        ]  # fmt: skip
    return found


def threshold(refusal: Array, right: Array, drop: float) -> float:
    """The least value above which rows in scope may be refused: at most `drop` of all of them are lost by it that were
    right. refusal, right: of rows in scope, (n,).

    >>> threshold(np.array([0.9, 0.1, 0.5, 0.3]), np.array([False, True, True, True]), 0.25)
    0.3
    """
    order = np.argsort(-refusal, kind="stable")
    lost = np.cumsum(right[order]) > drop * len(right) + 1e-9
    return float(refusal[order][lost.argmax()]) if lost.any() else -np.inf


def auroc(values: Array, positive: Array, weights: Array) -> Array:
    """(b,): the share of pairs of a positive and a negative row in which the positive one has the larger value; equal
    ones count half. weights: (b, n). NaN where there is no pair.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]), np.ones((1, 4))).tolist()
    [0.875]
    """
    levels, place = np.unique(values, return_inverse=True)
    hits, misses = (np.zeros((len(weights), len(levels))) for _ in range(2))
    np.add.at(hits.T, place, np.where(positive, weights, 0).T)
    np.add.at(misses.T, place, np.where(positive, 0, weights).T)
    below = np.cumsum(misses, 1) - misses / 2
    pairs = hits.sum(1) * misses.sum(1)
    return np.asarray(np.divide((hits * below).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def _share(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Callable[[Array], Array]:
    def statistic(weights: Array) -> Array:
        total, hits = weights[:, among].sum(1), weights[:, hit & among].sum(1)
        return np.asarray(np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0))

    return statistic
