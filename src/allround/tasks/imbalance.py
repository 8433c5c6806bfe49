"""What a task may say of its training loss: weights of labels, so that rare ones count as much as frequent ones, a
focal exponent, and the loss of pairs with scores."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind

BALANCED = "balanced"


def label_weights(
    definition: Definition, train: Encoded, asked: str | Mapping[str, float]
) -> tuple[tuple[float, ...], ...]:
    """The weight of each outcome of each decision: one row of labels; or, where a row may have several, for each label
    the weights of not having it and of having it.

    asked: "balanced", inversely to how often an outcome occurs (King and Zeng, Political Analysis 9, 2001), or the
    weights of some labels, the others having 1. They are scaled to a mean of 1 over the training rows, so that a task
    keeps its share in joint training.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> label_weights(d, np.array([0, 0, 0, 1]), "balanced")
    ((0.6666666666666666, 2.0),)
    """
    rules = kind(definition.kind)
    if not rules.fixed_labels:
        raise _error(definition, f"a task of the kind {definition.kind} has no labels", "leave class_weights out")
    counts = _counts(definition, train)
    if isinstance(asked, str):
        if asked != BALANCED:
            raise _error(definition, f"class_weights is '{asked}'", "give balanced, or a weight for each label")
        table = counts.sum(1, keepdims=True) / np.maximum(counts, 1.0)
    else:
        table = np.ones_like(counts)
        for label, weight in asked.items():
            if label not in definition.labels:
                raise _error(definition, f"it has no label '{label}'", suggestion(label, definition.labels))
            if not 0 < weight < 1e6:
                raise _error(definition, f"the weight of '{label}' is {weight:g}", "give a number above 0")
            place = definition.labels.index(label)
            table[(place, 1) if len(counts) > 1 or rules.indicators else (0, place)] = weight
    table = table * counts.sum(1, keepdims=True) / (table * counts).sum(1, keepdims=True)
    return tuple(tuple(map(float, row)) for row in table)


def row_weights(definition: Definition, targets: NDArray[np.generic], decision: int = 0) -> NDArray[np.float64] | None:
    """The weight of each row by its encoded target of one decision: (n,); None where the task has no weights."""
    if not definition.weights:
        return None
    return np.asarray(definition.weights[decision])[targets.astype(np.int64)]


def check_focal(definition: Definition, focal: float) -> float:
    """The exponent of the focal loss (0 is the plain loss), or an error where it makes no sense."""
    if not 0 <= focal <= 10:
        raise _error(definition, f"focal is {focal:g}", "give an exponent from 0 to 10, such as 2")
    if focal and not kind(definition.kind).fixed_labels:
        raise _error(definition, f"a task of the kind {definition.kind} has no labels", "leave focal out")
    return float(focal)


def check_agree(definition: Definition, agree: str) -> str:
    """The loss of pairs with scores that a text names, or an error where it makes no sense."""
    if definition.kind != "similarity":
        raise _error(definition, f"agree is '{agree}', and it is no task of the kind similarity", "leave agree out")
    registry.spelled("agree", agree)
    return agree


def _counts(definition: Definition, train: Encoded) -> NDArray[np.float64]:
    """How often each outcome of each decision occurs."""
    if isinstance(train, list):
        train = np.array(list(chain.from_iterable(train)), dtype=np.int64)
    values = np.asarray(train)
    if values.ndim == 2:
        on = (values == 1).sum(0)
        return np.stack([len(values) - on, on], 1).astype(np.float64)
    return np.bincount(values, minlength=len(definition.labels)).astype(np.float64)[None]


def _error(definition: Definition, found: str, do: str) -> AllroundError:
    return AllroundError(f"weigh the labels of the task '{definition.name}'", found, do)
