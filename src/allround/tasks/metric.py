"""What a metric must say: the score of a task's answers, and how to score many resamples of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from allround.core import registry
from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]

#: One row of numbers an example: float64 (n, s), dense or sparse.
Parts: TypeAlias = "Array | csr_array"

#: Weights of examples (b, n), one row a resample -> scores (b,).
Resampler = Callable[[Array], Array]


class Metric(ABC):
    """The rules of one metric. Metrics hold no state; targets and predictions are encoded as their kind does.

    Scores are finite for every prediction, however bad: each metric says what it gives where its formula is
    undefined.
    """

    @abstractmethod
    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        """The score, by the library that the method's source names. n >= 1 examples."""

    @abstractmethod
    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        """A function from weights (b, n), how often each example was drawn, to scores (b,)."""

    def check(self, definition: Definition) -> None:  # noqa: B027 (most metrics score every definition)
        """Raise an AllroundError where the definition is not one that this metric can score."""


class PartsMetric(Metric):
    """A metric whose score follows from sums over examples.

    `parts` cuts the score into one row an example, such that the score of any weighting of the examples follows
    from the weighted sums of the rows; a bootstrap is then one matrix product.
    """

    @abstractmethod
    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        """One row of numbers an example: float64 (n, s), dense or a SciPy sparse array."""

    @abstractmethod
    def value(self, sums: Array, definition: Definition) -> Array:
        """Scores (b,) from weighted sums of parts (b, s)."""

    def resampler(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Resampler:
        parts = self.parts(targets, predictions, definition)
        return lambda weights: self.value(weights @ parts, definition)


def metric(name: str) -> Metric:
    """The metric called `name`."""
    made: Metric = registry.load("metric", name)()
    return made


def better(name: str) -> str:
    """ "higher" or "lower": which scores of a metric are the better ones, read without importing it.

    >>> better("accuracy"), better("rmse")
    ('higher', 'lower')
    """
    found: str = registry.find("metric", name).facts["better"]
    return found


def check(definition: Definition) -> None:
    """Raise an AllroundError unless the task's metric exists and fits its kind and labels.

    >>> check(Definition("t", "regression", ("x",), "text", "accuracy"))
    Traceback (most recent call last):
    allround.core.errors.AllroundError: asked: score the task 't' by 'accuracy'
    found: 'accuracy' is not for tasks of kind 'regression'
    do:    use one of: pearson, rmse, spearman
    """
    entry = registry.find("metric", definition.metric)
    if definition.kind not in entry.facts["kinds"]:
        fitting = [e.name for e in registry.entries("metric") if definition.kind in e.facts["kinds"]]
        raise AllroundError(
            f"score the task '{definition.name}' by '{definition.metric}'",
            f"'{definition.metric}' is not for tasks of kind '{definition.kind}'",
            f"use one of: {', '.join(fitting)}",
        )
    metric(definition.metric).check(definition)


def one_hot(classes: Encoded, count: int) -> csr_array:
    """Class numbers (n,) -> a sparse float64 (n, count) with a 1 for each example's class.

    >>> one_hot(np.array([1, 0]), 2).toarray().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    from scipy.sparse import csr_array

    n = len(classes)
    return csr_array((np.ones(n), np.asarray(classes), np.arange(n + 1)), shape=(n, count))
