"""judge: how far a system that judges answers agrees with people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.evaluation.measuring import Measured, MeasureView, mean_of, measured
from allround.tasks.metric import Array


@method(
    source="kappa: Cohen, Educational and Psychological Measurement 20, 1960; swapped answers: Zheng et al., NeurIPS "
    "2023, arXiv:2306.05685",
)
def judge(view: MeasureView, *, task: str, swapped: str = "") -> Sequence[Measured]:
    """Compare the labels that a system gives with those that people gave, the targets of a task.

    swapped: the task with the same rows in which the two answers to be judged have changed places, and with the two
    labels of a preference in the same order, such as first and second.
    Formula: agreement = share of equal labels; kappa = (agreement - e) / (1 - e), e what the shares of labels give by
    chance; held = share of rows in which the same answer is preferred after the swap; first = share of rows, over both
    orders, in which the first one is preferred: 50 without a bias to a place.
    """
    asked = f"compare the judge with people on '{task}'"
    made = view.of(task, asked)
    if made.definition.kind not in ("classification", "ordinal", "multiple_choice"):
        raise AllroundError(asked, f"its kind is {made.definition.kind}", "give a task with one label a row")
    people, said = np.asarray(made.targets), np.asarray(made.predictions)
    found = [mean_of(f"agreement with people on {task}", task, people == said),
             measured(f"kappa with people on {task}", task, len(people), lambda w: kappa(people, said, w))]  # fmt: skip
    if swapped:
        other = view.of(swapped, asked)
        if len(made.definition.labels) != 2 or len(other) != len(made):
            raise AllroundError(asked, f"it has {len(made.definition.labels)} labels, or '{swapped}' has other rows",
                                "give the same rows twice, with two labels")  # fmt: skip
        turned = np.asarray(other.predictions)
        first = ((said == 0).astype(float) + (turned == 0)) / 2
        found.append(mean_of(f"preferences of {task} that hold when swapped", task, said != turned))
        found.append(mean_of(f"the first answer of {task} preferred", task, first))
    return found


def kappa(one: Array, other: Array, weights: Array) -> Array:
    """(b,): Cohen's kappa of two raters, rows counted by weights, (b, n); NaN where chance explains all.

    >>> kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.ones((1, 4))).tolist()
    [0.5]
    """
    total = weights.sum(1)
    agreed = weights[:, one == other].sum(1) / total
    labels = np.union1d(one, other)
    chance = sum(weights[:, one == label].sum(1) * weights[:, other == label].sum(1) for label in labels) / total**2
    return np.asarray(np.divide(agreed - chance, 1 - chance, out=np.full(len(total), np.nan), where=chance < 1))
