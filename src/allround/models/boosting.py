"""Gradient-boosted trees for a task on a table: how columns become numbers, how trees are fitted, what they answer.

Fitted by scikit-learn's HistGradientBoosting. Of what it learns, the plain arrays are kept, so that a saved model holds
no pickle, and answers alike under any version of scikit-learn.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.schema import STRICT
from allround.models.batch import Answers
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import better, metric
from allround.tasks.values import Row, Value, is_missing

if TYPE_CHECKING:
    from allround.tasks.task import Task

Numbers = NDArray[np.float64]

#: Most categories of a column; rarer ones count as missing.
CATEGORIES = 254
#: Rounds of boosting; the best number of them is chosen on validation.
ROUNDS = 200
#: Settings that are tried: large trees with many rows in a leaf, small trees with few. The best on validation is taken.
TRIED: tuple[Mapping[str, int], ...] = (
    {"max_leaf_nodes": 31, "min_samples_leaf": 20},
    {"max_leaf_nodes": 8, "min_samples_leaf": 5},
)


@dataclass(frozen=True)
class Column:
    """How a column is read.

    sort: `number`, `date` (written as in ISO 8601; its day, counted from 1970-01-01, with the time of day as a
    fraction), or `category` (its place in `categories`).
    """

    __pydantic_config__ = STRICT

    sort: Literal["number", "date", "category"]
    categories: tuple[str, ...] = ()

    def number(self, value: Value) -> float:
        """The number that stands for a value; NaN where it is missing or was not seen in training."""
        if is_missing(value) or value == "":
            return np.nan
        if self.sort == "number":
            try:
                return float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                return np.nan
        if self.sort == "date":
            return day_of(value)
        try:
            return float(self.categories.index(str(value)))
        except ValueError:
            return np.nan


def day_of(value: Value) -> float:
    """Days since 1970-01-01 of a date as ISO 8601 writes it; NaN for anything else.

    >>> day_of("1970-01-02T12:00:00"), day_of("soon")
    (1.5, nan)
    """
    try:
        found = datetime.datetime.fromisoformat(str(value).strip())
    except ValueError:
        return np.nan
    return (found.replace(tzinfo=None) - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)


def column_of(values: Sequence[Value]) -> Column:
    """How a column is read, from its training values: as numbers or dates where all of them are, else as categories.

    >>> column_of(["2024-01-01", None, "2024-02-01"]).sort, column_of(["b", "a", "b"]).categories
    ('date', ('a', 'b'))
    """
    there = [value for value in values if not is_missing(value) and value != ""]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return Column("number")
    if there and all(day_of(value) == day_of(value) for value in there):
        return Column("date")
    counts = Counter(str(value) for value in there)
    return Column("category", tuple(sorted(sorted(counts, key=lambda c: (-counts[c], c))[:CATEGORIES])))


@dataclass(frozen=True)
class Forest:
    """Trees in arrays, those of all rounds and outputs one after the other.

    Of each node: `value` (of a leaf), `feature`, `threshold` (a number that is not above it goes left), `missing`
    (whether a missing number goes left), the places of its children `left` and `right`, and `group` (the row of `sets`
    that says which categories go left; -1 for a number). A leaf is its own left child. roots: the first node of each
    tree, ordered by round; the trees of one round belong to outputs 0, 1, ... base: what the sum of each output begins
    at.
    """

    value: Numbers
    feature: NDArray[np.int64]
    threshold: Numbers
    missing: NDArray[np.uint8]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    group: NDArray[np.int64]
    sets: NDArray[np.uint8]
    roots: NDArray[np.int64]
    base: Numbers

    def check(self, columns: int) -> None:
        """A ValueError unless every path ends in a leaf and reads what is there."""
        nodes = self.value.size
        each = (self.value, self.feature, self.threshold, self.missing, self.left, self.right, self.group)
        if any(array.shape != (nodes,) for array in each) or self.sets.shape[1:] != (CATEGORIES + 2,):
            raise ValueError("its arrays do not fit together")
        if self.roots.ndim != 1 or self.base.ndim != 1 or not len(self.base):
            raise ValueError("its arrays do not fit together")
        if not all(np.isfinite(array).all() for array in (self.value, self.base)) or np.isnan(self.threshold).any():
            raise ValueError("it holds NaN or infinity")
        places = np.arange(nodes)
        leaf = self.left == places
        if (self.right != places)[leaf].any():
            raise ValueError("a leaf has a child")
        for child in (self.left, self.right):
            if (child <= places)[~leaf].any() or (child >= nodes).any() or (child < 0).any():
                raise ValueError("a tree does not end")
        if ((self.feature < 0) | (self.feature >= columns)).any():
            raise ValueError("a tree reads a column that is not there")
        if (self.group < -1).any() or (self.group >= len(self.sets)).any():
            raise ValueError("a tree reads categories that are not there")
        if len(self.roots) % len(self.base) or ((self.roots < 0) | (self.roots >= nodes)).any():
            raise ValueError("a tree begins nowhere")

    def rounds(self, x: Numbers) -> Numbers:
        """What the sum is after each round: x (n, columns) -> (rounds + 1, n, outputs)."""
        steps = self.trees(x).reshape(-1, len(self.base), len(x)).transpose(0, 2, 1)
        start = np.broadcast_to(self.base, (1, len(x), len(self.base)))
        return np.concatenate([start, steps]).cumsum(0)

    def outputs(self, x: Numbers) -> Numbers:
        """The sum of all trees: x (n, columns) -> (n, outputs)."""
        found: Numbers = self.rounds(x)[-1]
        return found

    def trees(self, x: Numbers) -> Numbers:
        """What each tree gives: x (n, columns) -> (trees, n)."""
        place = np.repeat(self.roots[:, None], len(x), 1)
        rows = np.arange(len(x))[None]
        while True:
            given = x[rows, self.feature[place]]
            left = np.where(np.isnan(given), self.missing[place] == 1, given <= self.threshold[place])
            category = np.where(np.isnan(given), 0, given).clip(0, CATEGORIES + 1).astype(np.int64)
            group = self.group[place]
            listed = self.sets[group, category] == 1 if len(self.sets) else np.zeros_like(left)
            left = np.where((group >= 0) & ~np.isnan(given), listed, left)
            after = np.where(left, self.left[place], self.right[place])
            if (after == place).all():
                return self.value[place]
            place = after

    def first(self, rounds: int) -> Forest:
        """The same with the first rounds alone."""
        roots = self.roots[: rounds * len(self.base)]
        stop = self.roots[rounds * len(self.base)] if len(roots) < len(self.roots) else len(self.value)
        return Forest(
            self.value[:stop],
            self.feature[:stop],
            self.threshold[:stop],
            self.missing[:stop],
            self.left[:stop],
            self.right[:stop],
            self.group[:stop],
            self.sets,
            roots,
            self.base,
        )

    @property
    def numbers(self) -> int:
        """How many numbers describe it: a column, a threshold and a default for a split, a value for a leaf."""
        leaves = int((self.left == np.arange(len(self.left))).sum())
        return 3 * (len(self.value) - leaves) + leaves + len(self.base)


def _forest(fitted: object) -> Forest:
    """The arrays of a fitted HistGradientBoosting model."""
    predictors: Sequence[Sequence[object]] = fitted._predictors  # type: ignore[attr-defined]
    base = np.asarray(fitted._baseline_prediction, dtype=np.float64).reshape(-1)  # type: ignore[attr-defined]
    parts: dict[str, list[NDArray[np.generic]]] = {}
    roots, start, groups = [], 0, 0
    sets: list[NDArray[np.uint8]] = []
    for trees in predictors:
        for tree in trees:
            nodes = tree.nodes  # type: ignore[attr-defined]
            bits: NDArray[np.uint32] = tree.raw_left_cat_bitsets  # type: ignore[attr-defined]
            own = np.arange(len(nodes)) + start
            leaf = nodes["is_leaf"] == 1
            listed = {
                "value": nodes["value"],
                "feature": np.where(leaf, 0, nodes["feature_idx"]),
                "threshold": np.where(leaf | (nodes["is_categorical"] == 1), 0.0, nodes["num_threshold"]),
                "missing": nodes["missing_go_to_left"],
                "left": np.where(leaf, own, nodes["left"].astype(np.int64) + start),
                "right": np.where(leaf, own, nodes["right"].astype(np.int64) + start),
                "group": np.where(nodes["is_categorical"] == 1, nodes["bitset_idx"].astype(np.int64) + groups, -1),
            }
            for name, array in listed.items():
                parts.setdefault(name, []).append(array)
            unpacked = np.unpackbits(bits.astype("<u4").view(np.uint8), bitorder="little").reshape(-1, 256)
            sets.append(unpacked[:, : CATEGORIES + 2])
            roots.append(start)
            start, groups = start + len(nodes), groups + len(unpacked)
    types = {"value": np.float64, "threshold": np.float64, "missing": np.uint8}
    joined = {name: np.concatenate(arrays).astype(types.get(name, np.int64)) for name, arrays in parts.items()}
    return Forest(**joined, sets=np.concatenate(sets), roots=np.array(roots, dtype=np.int64), base=base)


@dataclass(frozen=True)
class TaskTrees:
    """The trees of one task.

    order: the places of the columns as the trees read them, categories first. forests: one, or for a multilabel task
    one for each label; None where all training rows have one target, which then stands in `constant`. classes: the
    labels that the outputs stand for.
    """

    definition: Definition
    columns: tuple[Column, ...]
    order: tuple[int, ...]
    forests: tuple[Forest | None, ...]
    constant: tuple[float, ...]
    classes: tuple[int, ...] = ()

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


def order_of(columns: Sequence[Column]) -> tuple[int, ...]:
    """The places of columns as trees read them: categories first.

    >>> order_of([Column("number"), Column("category", ("a",)), Column("date")])
    (1, 0, 2)
    """
    return tuple(sorted(range(len(columns)), key=lambda place: (columns[place].sort != "category", place)))


def table_of(rows: Sequence[Row], columns: Sequence[Column], order: Sequence[int]) -> Numbers:
    """Rows as numbers: (n, columns), in an order."""
    found = np.empty((len(rows), len(order)))
    for at, place in enumerate(order):
        column = columns[place]
        if column.sort == "category":
            known = {category: float(number) for number, category in enumerate(column.categories)}
            missing = np.nan
            found[:, at] = [missing if is_missing(row[place]) else known.get(str(row[place]), missing) for row in rows]
        else:
            found[:, at] = [column.number(row[place]) for row in rows]
    return found


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
    """Whether trees can answer a task: one on a table, whose targets belong to rows."""
    return definition.modality == "table" and not kind(definition.kind).per_token


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
    columns = tuple(column_of([row[place] for row in train.inputs]) for place in range(len(definition.inputs)))
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
        forests = [_fit(x, column, categories, settings, seed, rules.numeric) for column in targets]
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
    x: Numbers, y: NDArray[np.generic], categories: list[int], settings: Mapping[str, int], seed: int, numeric: bool
) -> Forest | None:
    """One forest of ROUNDS rounds; None where all targets are the same."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

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
    model.fit(shown, y)
    forest = _forest(model)
    # The arrays are read from attributes that scikit-learn keeps to itself: see that they say what the model says.
    some = shown[:64]
    said = model.predict(some) if numeric else model.decision_function(some)
    if not np.allclose(forest.outputs(some), said.reshape(len(some), -1), rtol=1e-6, atol=1e-6):
        raise RuntimeError("this version of scikit-learn keeps its trees in another way than allround reads them")
    return forest


def _best_rounds(made: TaskTrees, held: Numbers, targets: Encoded, sign: int) -> tuple[int, float]:
    """The number of rounds with the best validation score, and that score; of equals the one
    with the lowest validation loss, but at least one round."""
    scorer = metric(made.definition.metric)
    sums = [forest.rounds(held) if forest is not None else None for forest in made.forests]
    most = max((len(one) for one in sums if one is not None), default=2)
    found: list[tuple[float, float]] = []
    for number in range(1, most):
        outputs = [np.zeros((len(held), 0)) if one is None else one[number] for one in sums]
        answers = made.read(outputs, len(held))
        score = sign * scorer.score(targets, answers.predictions, made.definition)
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
