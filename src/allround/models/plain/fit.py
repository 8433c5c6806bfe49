"""Linear models fitted by scikit-learn, with the strength of the penalty chosen on validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.models.plain.linear import TaskLinear, reader_of
from allround.models.plain.reader import Matrix
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import better, score_of
from allround.tasks.task import Task

#: Most steps of the solver for one strength.
STEPS = 200
#: Where the solver stops: the largest entry of the gradient of the mean loss.
TOLERANCE = 1e-4
#: The bias of a label that all training rows have; less this where none has it.
CERTAIN = 16.0

#: Weight and bias for each inverse strength of the penalty.
Path = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def can_fit(definition: Definition) -> bool:
    """Whether a linear model can answer a task."""
    return reader_of(definition) is not None


def fit_linear(task: Task) -> tuple[TaskLinear, dict[str, float]]:
    """A linear model of a task: logistic regression for labels, ridge regression for numbers.

    Returns it and what was tried: inverse strength of the penalty -> validation score; the best is taken, and of equals
    the strongest penalty. Errors: a task whose rows it cannot read.
    """
    definition, rules = task.definition, kind(task.definition.kind)
    sort = reader_of(definition)
    if sort is None:
        raise AllroundError(
            f"fit a linear model for task '{definition.name}'",
            f"it is a task of the kind {definition.kind} on the modality {definition.modality}, and no reader of a "
            "linear model takes such rows",
            "use a network",
        )
    train, validation = task.splits["train"], task.splits["validation"]
    reader = sort.of(train.inputs, definition)
    numbers = reader.numbers(train.inputs)
    strengths = reader.strengths["numbers" if rules.numeric else "labels"]
    classes: tuple[int, ...] = ()
    if rules.numeric:
        path = _ridge(numbers, np.asarray(train.targets), strengths)
    elif rules.lists and not rules.per_token:
        columns = [_one_label(numbers, column, strengths) for column in np.asarray(train.targets).T]
        path = [_stacked([one[at] for one in columns]) for at in range(len(strengths))]
    else:
        targets = np.concatenate(train.targets) if rules.per_token else np.asarray(train.targets)
        classes = tuple(int(label) for label in np.unique(targets))
        path = _logistic(numbers, targets, strengths)
    made = [TaskLinear(definition, reader, weight, bias, classes) for weight, bias in path]
    score = _scorer(validation.targets, definition)
    held = reader.numbers(validation.inputs)
    scores = [score(one, held) for one in made]
    sign = 1 if better(definition.metric) == "higher" else -1
    best = max(range(len(made)), key=lambda at: (sign * scores[at], -at))
    return made[best], {f"{strength:g}": found for strength, found in zip(strengths, scores, strict=True)}


def _scorer(targets: Encoded, definition: Definition) -> Callable[[TaskLinear, Matrix], float]:
    def score(made: TaskLinear, held: Matrix) -> float:
        found = made.read(held)
        predictions, scores = found.predictions, found.scores
        if kind(definition.kind).per_token:
            ends = np.cumsum([len(row) for row in targets])[:-1]
            predictions, scores = np.split(predictions, ends), np.split(np.asarray(scores), ends)
        return score_of(definition, targets, predictions, scores)

    return score


def _one_label(numbers: Matrix, targets: NDArray[np.generic], strengths: Sequence[float]) -> Path:
    """Whether a label is there; where it always is, or never, a bias alone."""
    if not (targets == targets[0]).all():
        return _logistic(numbers, targets, strengths)
    bias = np.array([CERTAIN if targets[0] else -CERTAIN], np.float32)
    return [(np.zeros((1, numbers.shape[1]), np.float32), bias)] * len(strengths)


def _stacked(parts: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.concatenate([weight for weight, _ in parts]), np.concatenate([bias for _, bias in parts])


def _logistic(numbers: Matrix, targets: NDArray[np.generic], strengths: Sequence[float]) -> Path:
    """Logistic regressions; each begins where the one before has ended. One class has no outputs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    width = numbers.shape[1]
    if (targets == targets[0]).all():
        return [(np.zeros((0, width), np.float32), np.zeros(0, np.float32))] * len(strengths)
    model = LogisticRegression(max_iter=STEPS, tol=TOLERANCE, warm_start=True)
    found: Path = []
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline may stop early
        for strength in strengths:
            model.set_params(C=strength).fit(numbers, targets)
            found.append((model.coef_.astype(np.float32), model.intercept_.astype(np.float32)))
    return found


def _ridge(numbers: Matrix, targets: NDArray[np.generic], strengths: Sequence[float]) -> Path:
    from sklearn.linear_model import Ridge
    from threadpoolctl import threadpool_limits

    found: Path = []
    with threadpool_limits(limits=1):
        for strength in strengths:
            model = Ridge(alpha=1 / strength).fit(numbers, targets.astype(np.float64))
            found.append((model.coef_.reshape(1, -1).astype(np.float32), np.array([model.intercept_], np.float32)))
    return found
