"""What a metric must say: the score of a task's answers, and how to score many resamples of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
#: How many rows are scored alone at once.
_ROWS = 256

#: One row of numbers an example: float64 (n, s), dense or sparse.
Parts: TypeAlias = "Array | csr_array"

#: Weights of examples (b, n), one row a resample -> scores (b,).
Resampler = Callable[[Array], Array]


class Metric(ABC):
    """The rules of one metric. Metrics hold no state but their parameters; targets and predictions are encoded as their
    kind does.

    A metric that declares `needs=("scores",)` is given the probabilities of the labels, (n, labels), in place of the
    predictions; it is for kinds where a row has one for each label.

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
    """The metric called `name`, with its parameters where it has any.

    >>> metric("top_k_accuracy:k=5").k
    5
    """
    found, values = registry.spelled("metric", name)
    made: Metric = registry.load("metric", found)(**values)
    return made


def entry_of(name: str) -> Entry:
    """What is known of a metric without importing it. name: with or without parameters."""
    return registry.find("metric", name.partition(":")[0].strip())


def better(name: str) -> str:
    """ "higher" or "lower": which scores of a metric are the better ones, read without importing it.

    >>> better("accuracy"), better("rmse")
    ('higher', 'lower')
    """
    found: str = entry_of(name).facts["better"]
    return found


def needs_scores(name: str) -> bool:
    """Whether a metric judges the probabilities of the labels, read without importing it.

    >>> needs_scores("auroc"), needs_scores("accuracy")
    (True, False)
    """
    return "scores" in entry_of(name).needs


def judged(definition: Definition, predictions: Encoded, scores: Encoded | None) -> Encoded:
    """What the metric of a task judges: predictions, or scores. Errors: it needs scores, and there are none."""
    if not needs_scores(definition.metric):
        return predictions
    if scores is None:
        raise AllroundError(
            f"score the task '{definition.name}' by '{definition.metric}'",
            "it judges the probabilities of the labels, and the system gives none",
            "use a system that does, or a metric that judges answers, such as accuracy",
        )
    return scores


def score_of(definition: Definition, targets: Encoded, predictions: Encoded, scores: Encoded | None = None) -> float:
    """The score of answers by the metric of their task. scores: the probabilities of the labels, where there are any.

    >>> d = Definition("t", "classification", ("x",), "text", "log_loss", ("no", "yes"))
    >>> round(score_of(d, np.array([1]), np.array([1]), np.array([[0.5, 0.5]])), 4)
    0.6931
    """
    return metric(definition.metric).score(targets, judged(definition, predictions, scores), definition)


def row_scores(definition: Definition, targets: Encoded, predictions: Encoded) -> Array:
    """The score of each row alone, by the metric of its task: (n,).

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> row_scores(d, np.array([0, 1]), np.array([1, 1])).tolist()
    [0.0, 1.0]
    """
    score = metric(definition.metric).resampler(targets, predictions, definition)
    count = len(targets)
    alone = [score(np.eye(min(_ROWS, count - start), count, start)) for start in range(0, count, _ROWS)]
    return np.concatenate(alone) if alone else np.zeros(0)


def check(definition: Definition) -> None:
    """Raise an AllroundError unless the task's metric exists and fits its kind and labels.

    >>> check(Definition("t", "regression", ("x",), "text", "accuracy"))
    Traceback (most recent call last):
    allround.core.errors.AllroundError: asked: score the task 't' by 'accuracy'
    found: 'accuracy' is not for tasks of kind 'regression'
    do:    use one of: mae, pearson, r2, rmse, spearman
    """
    entry = entry_of(definition.metric)
    if definition.kind not in entry.facts["kinds"]:
        fitting = [e.name for e in registry.entries("metric") if definition.kind in e.facts["kinds"]]
        raise AllroundError(
            f"score the task '{definition.name}' by '{definition.metric}'",
            f"'{entry.name}' is not for tasks of kind '{definition.kind}'",
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
