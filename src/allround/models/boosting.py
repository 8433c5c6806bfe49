"""Gradient-boosted trees for a task on a table: how columns become numbers, how trees are fitted, what they answer.

Fitted by scikit-learn's HistGradientBoosting. Of what it learns, the plain arrays are kept, so that a saved model holds
no pickle, and answers alike under any version of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.forest import Forest, forest_of
from allround.models.table_columns import Column, Numbers, column_of, order_of, table_of
from allround.tasks.definition import Definition
from allround.tasks.imbalance import row_weights
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import better, score_of
from allround.tasks.values import Row

if TYPE_CHECKING:
    from allround.tasks.task import Task

#: Rounds of boosting; the best number of them is chosen on validation.
ROUNDS = 200
#: Numbers in a table from which more threads than one pay; below, they spend their time waiting for each other.
LARGE = 1_000_000
#: Settings that are tried: large trees with many rows in a leaf, small trees with few. The best on validation is taken.
TRIED: tuple[Mapping[str, int], ...] = (
    {"max_leaf_nodes": 31, "min_samples_leaf": 20},
    {"max_leaf_nodes": 8, "min_samples_leaf": 5},
)


@dataclass(frozen=True)
class TaskTrees:
    """The trees of one task.

    order: the places of the columns as the trees read them, one for each number, categories first. forests: one, or
    for a multilabel task one for each label; None where all training rows have one target, which then stands in
    `constant`. classes: the labels that the outputs stand for.
    """

    definition: Definition
    columns: tuple[Column, ...]
    order: tuple[int, ...]
    forests: tuple[Forest | None, ...]
    constant: tuple[float, ...]
    classes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers it keeps: thresholds, the columns of splits, the values of leaves; 1 of a constant."""
        return sum(forest.numbers for forest in self.forests if forest is not None) or 1

    def check(self) -> None:
        """A ValueError unless its parts fit each other and the definition."""
        definition, rules = self.definition, kind(self.definition.kind)
        if not can_boost(definition):
            raise ValueError("trees cannot answer such a task")
        if len(self.columns) != len(definition.inputs) or self.order != order_of(self.columns):
            raise ValueError("it does not list the columns")
        if len(self.forests) != len(self.constant) or len(self.forests) != (
            len(definition.labels) if rules.lists else 1
        ):
            raise ValueError("it does not have the trees of each label")
        named = not rules.numeric and not rules.lists
        for forest in self.forests:
            outputs = 1 if forest is None else len(forest.base)
            classes = (1 if forest is None else max(2, outputs)) if named else 0
            if (outputs > 1 and not named) or outputs == 2 or len(self.classes) != classes:
                raise ValueError("the trees have outputs for other labels")
        if list(self.classes) != sorted({c for c in self.classes if 0 <= c < len(definition.labels)}):
            raise ValueError("the trees have outputs for labels that are not there")
        if not rules.numeric and any(not 0 <= fixed <= max(1, len(definition.labels)) for fixed in self.constant):
            raise ValueError("a constant is no label")

    def table(self, rows: Sequence[Row]) -> Numbers:
        """Rows as numbers, columns in the order of the trees: (n, columns)."""
        return table_of(rows, self.columns, self.order)

    def answer(self, rows: Sequence[Row]) -> Answers:
        """Predictions, confidences and scores of rows."""
        x = self.table(rows)
        return self.read([np.zeros((len(x), 0)) if f is None else f.outputs(x) for f in self.forests], len(x))

    def read(self, outputs: Sequence[Numbers], count: int) -> Answers:
        """What the sums of the trees say. outputs: of each forest, (n, outputs)."""
        rules = kind(self.definition.kind)
        if rules.numeric:
            (sums,) = outputs
            return Answers(sums[:, 0] if self.forests[0] is not None else np.full(count, self.constant[0]))
        if rules.lists:
            columns = [
                np.full(count, fixed) if forest is None else _sigmoid(sums[:, 0])
                for forest, sums, fixed in zip(self.forests, outputs, self.constant, strict=True)
            ]
            scores = np.stack(columns, 1)
        else:
            scores = np.zeros((count, len(self.definition.labels)))
            scores[:, list(self.classes)] = 1.0 if self.forests[0] is None else _shares(outputs[0])
        return Answers(*rules.decide(scores), scores)


def _sigmoid(sums: Numbers) -> Numbers:
    found: Numbers = 0.5 * (1 + np.tanh(0.5 * sums))
    return found


def _shares(sums: Numbers) -> Numbers:
    """Probabilities of the classes: (n, 1) for two of them, or (n, classes)."""
    if sums.shape[1] == 1:
        second = _sigmoid(sums)
        return np.concatenate([1 - second, second], 1)
    powers = np.exp(sums - sums.max(1, keepdims=True))
    found: Numbers = powers / powers.sum(1, keepdims=True)
    return found


def can_boost(definition: Definition) -> bool:
    """Whether trees can answer a task: one on a table, whose targets are labels or numbers of rows."""
    rules = kind(definition.kind)
    return definition.modality == "table" and not rules.per_token and not rules.for_language_models


def fit_trees(task: Task, *, seed: int = 0) -> tuple[TaskTrees, dict[str, float]]:
    """Boosted trees for a task; settings and the number of rounds are those that score best on its validation rows.

    Returns them and what was tried: settings -> validation score at the best number of rounds. Errors: a task that is
    not on a table, or has a target for each word.
    """
    definition, rules = task.definition, kind(task.definition.kind)
    if not can_boost(definition):
        raise AllroundError(
            f"fit boosted trees for task '{definition.name}'",
            f"it is a task of the kind {definition.kind} on the modality {definition.modality}, and trees read tables",
            "use a network, or give the columns of a table",
        )
    train, validation = task.splits["train"], task.splits["validation"]
    types = definition.columns or (None,) * len(definition.inputs)
    columns = tuple(column_of([row[place] for row in train.inputs], type_) for place, type_ in enumerate(types))
    order = order_of(columns)
    x, held = table_of(train.inputs, columns, order), table_of(validation.inputs, columns, order)
    categories = [at for at, place in enumerate(order) if columns[place].sort == "category"]
    targets = _targets(train.targets, definition)
    classes = tuple(int(c) for c in np.unique(targets[0])) if not rules.numeric and not rules.lists else ()
    constant = tuple(float(column[0]) for column in targets)
    sign = 1 if better(definition.metric) == "higher" else -1
    best: tuple[float, TaskTrees] | None = None
    tried: dict[str, float] = {}
    for settings in TRIED:
        forests = [
            _fit(x, column, categories, settings, seed, rules.numeric, row_weights(definition, column, place))
            for place, column in enumerate(targets)
        ]
        made = TaskTrees(definition, columns, order, tuple(forests), constant, classes)
        rounds, score = _best_rounds(made, held, validation.targets, sign)
        tried[", ".join(f"{name}={value}" for name, value in settings.items())] = score
        if best is None or sign * score > best[0]:
            cut = tuple(forest.first(rounds) if forest is not None else None for forest in forests)
            best = sign * score, TaskTrees(definition, columns, order, cut, constant, classes)
    assert best is not None
    return best[1], tried


def _targets(encoded: Encoded, definition: Definition) -> list[NDArray[np.generic]]:
    """Columns of targets, one for each forest."""
    table = np.asarray(encoded)
    return [table[:, label] for label in range(table.shape[1])] if table.ndim == 2 else [table]


def _fit(
    x: Numbers,
    y: NDArray[np.generic],
    categories: list[int],
    settings: Mapping[str, int],
    seed: int,
    numeric: bool,
    weights: NDArray[np.float64] | None = None,
) -> Forest | None:
    """One forest of ROUNDS rounds; None where all targets are the same."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    if (y == y[0]).all():
        return None
    sort = HistGradientBoostingRegressor if numeric else HistGradientBoostingClassifier
    # A column that is always missing or holds one category would be refused or be in the way: it tells nothing.
    shown = x.copy()
    for at in range(x.shape[1]):
        if np.isnan(x[:, at]).all():
            shown[:, at] = 0.0
    model = sort(
        max_iter=ROUNDS, categorical_features=categories or None, early_stopping=False, random_state=seed, **settings
    )
    with threadpool_limits(limits=1 if x.size < LARGE else None, user_api="openmp"):
        model.fit(shown, y, sample_weight=weights)
    forest = forest_of(model)
    # The arrays are read from attributes that scikit-learn keeps to itself: see that they say what the model says.
    some = shown[:64]
    said = model.predict(some) if numeric else model.decision_function(some)
    if not np.allclose(forest.outputs(some), said.reshape(len(some), -1), rtol=1e-6, atol=1e-6):
        raise RuntimeError("this version of scikit-learn keeps its trees in another way than allround reads them")
    return forest


def _best_rounds(made: TaskTrees, held: Numbers, targets: Encoded, sign: int) -> tuple[int, float]:
    """The number of rounds with the best validation score, and that score; of equals the one
    with the lowest validation loss, but at least one round."""
    sums = [forest.rounds(held) if forest is not None else None for forest in made.forests]
    most = max((len(one) for one in sums if one is not None), default=2)
    found: list[tuple[float, float]] = []
    for number in range(1, most):
        outputs = [np.zeros((len(held), 0)) if one is None else one[number] for one in sums]
        answers = made.read(outputs, len(held))
        score = sign * score_of(made.definition, targets, answers.predictions, answers.scores)
        found.append((score, -_loss(answers, targets)))
    place = max(range(len(found)), key=found.__getitem__)
    return place + 1, sign * found[place][0]


def _loss(answers: Answers, targets: Encoded) -> float:
    """The mean squared error of numbers, or the mean of -log p of the labels."""
    wanted = np.asarray(targets)
    if answers.scores is None:
        return float(np.mean((np.asarray(answers.predictions) - wanted) ** 2))
    scores = np.asarray(answers.scores).clip(1e-9, 1 - 1e-9)
    likely = np.where(wanted == 1, scores, 1 - scores) if wanted.ndim == 2 else scores[np.arange(len(wanted)), wanted]
    return float(-np.log(likely).mean())
