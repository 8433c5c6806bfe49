"""Robust multi-task boosting: trees for all tasks, for two groups of tasks, and for each task on its own.

A task's output is shared(x) + s out(x) + (1 - s) non(x) + own(x), where s = sigmoid(theta) says how far the task is an
outlier. The three parts are fitted one after the other, each as long as the validation loss falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.models.boosting import can_boost
from allround.models.forest import Forest, joined
from allround.models.table_columns import CATEGORIES, Column, Numbers, column_of, order_of, table_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row

if TYPE_CHECKING:
    from allround.tasks.task import Task

#: Tasks whose scales differ by no more than this factor are in one unit.
ALIKE = 10.0
#: How far from 1/2 the weight of an outlier is.
MARGIN = 0.1
#: Longest step of theta.
MOST = 1.0
#: Least curvature of the logistic loss.
FLAT = 1e-4


@dataclass(frozen=True)
class RobustSettings:
    """How robust trees are fitted.

    shared, grouped, own: most rounds of the three parts. rate: what of a tree is added. depth, rows: of a tree, and the
    least rows in a leaf. theta_rate, penalty: what of a step of theta is taken, and how much half of its square adds to
    the loss of a task. patience: rounds without a lower validation loss after which a part ends.
    """

    shared: int = 200
    grouped: int = 100
    own: int = 30
    rate: float = 0.1
    depth: int = 4
    rows: int = 20
    theta_rate: float = 0.5
    penalty: float = 0.01
    patience: int = 15

    def __post_init__(self) -> None:
        if self.depth < 2 or min(self.shared, self.rows, self.patience) < 1 or min(self.grouped, self.own) < 0:
            raise AllroundError(
                "fit robust trees", f"the settings are {self}", "give trees a depth of at least 2, and parts rounds"
            )


@dataclass(frozen=True)
class RobustTrees:
    """Fitted trees. theta, center, scale: by task. own: of each task; None where it has none."""

    definitions: Mapping[str, Definition]
    columns: tuple[Column, ...]
    order: tuple[int, ...]
    shared: Forest
    outlier: Forest
    other: Forest
    own: Mapping[str, Forest | None]
    theta: Mapping[str, float]
    center: Mapping[str, float]
    scale: Mapping[str, float]

    def outputs(self, task: str, rows: Sequence[Row]) -> Numbers:
        """What the trees say of rows: numbers as the task's kind encodes them, or log odds of the second label."""
        x = _numbers(rows, self.columns, self.order)
        share = float(sigmoid(np.array(self.theta[task])))
        found = self.shared.outputs(x) + share * self.outlier.outputs(x) + (1 - share) * self.other.outputs(x)
        own = self.own[task]
        whole: Numbers = (found if own is None else found + own.outputs(x))[:, 0]
        definition = self.definitions[task]
        if not kind(definition.kind).numeric:
            return whole
        # Targets of a task are kept in units of its own training rows.
        return (whole * self.scale[task] + self.center[task] - definition.center) / definition.scale

    def outliers(self) -> list[str]:
        """The tasks that were found to be outliers: the smaller of the two groups, if one is smaller."""
        shares = {task: float(sigmoid(np.array(theta))) for task, theta in self.theta.items()}
        sides = [[t for t, s in shares.items() if s > 0.5 + MARGIN], [t for t, s in shares.items() if s < 0.5 - MARGIN]]
        smaller = min(sides, key=len)
        return smaller if 2 * len(smaller) < len(shares) and len(sides[0]) != len(sides[1]) else []


@dataclass
class _Rows:
    """Rows of all tasks. of: the number of each row's task."""

    x: Numbers
    y: Numbers
    of: NDArray[np.int64]
    counts: Numbers
    sums: Numbers = field(init=False)
    groups: tuple[Numbers, Numbers] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros(len(self.y))
        self.groups = np.zeros(len(self.y)), np.zeros(len(self.y))

    def output(self, share: Numbers) -> Numbers:
        weight = share[self.of]
        return self.sums + weight * self.groups[0] + (1 - weight) * self.groups[1]

    def by_task(self, values: Numbers) -> Numbers:
        """The mean over the rows of each task; 0 where it has none."""
        return np.bincount(self.of, values, len(self.counts)) / np.maximum(self.counts, 1)


def can_share(definitions: Sequence[Definition]) -> bool:
    """Whether robust trees can answer these tasks: several with the same columns, all of numbers or all of two
    labels."""
    if len(definitions) < 2 or not all(map(can_boost, definitions)):
        return False
    numeric = {kind(one.kind).numeric for one in definitions}
    fine = all(numeric) or all(one.kind == "classification" and len(one.labels) == 2 for one in definitions)
    return len(numeric) == 1 and fine and len({one.inputs for one in definitions}) == 1


def fit_robust(
    tasks: Sequence[Task], *, seed: int = 0, settings: RobustSettings | None = None
) -> tuple[RobustTrees, dict[str, float]]:
    """Robust trees for tasks with the same columns, and what validation said: the mean loss over rows after each part.

    Errors: tasks that differ in their columns, or that are neither all of numbers nor all of two labels.
    """
    asked = settings or RobustSettings()
    definitions = [task.definition for task in tasks]
    if not can_share(definitions):
        raise AllroundError(
            f"fit robust trees for the tasks {', '.join(d.name for d in definitions)}",
            "they must be two tasks or more on the same columns of tables, all of numbers or all with two labels",
            "leave the other tasks out, or fit trees for each task",
        )
    numeric = kind(definitions[0].kind).numeric
    inputs = [row for task in tasks for row in task.splits["train"].inputs]
    types = definitions[0].columns or (None,) * len(definitions[0].inputs)
    columns = tuple(column_of([row[place] for row in inputs], type_) for place, type_ in enumerate(types))
    order = order_of(columns)
    center, scale = _units(tasks) if numeric else (np.zeros(len(tasks)), np.ones(len(tasks)))
    train, held = (_rows_of(tasks, split, columns, order, center, scale) for split in ("train", "validation"))
    made = _Boosting(train, held, numeric, asked, seed).fit()
    names = [task.name for task in tasks]

    def named(values: Numbers) -> dict[str, float]:
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    own = dict(zip(names, made.own, strict=True))
    whole = RobustTrees(
        {d.name: d for d in definitions}, columns, order, made.shared, *made.groups, own, named(made.theta),
        named(center), named(scale),
    )  # fmt: skip
    return whole, made.losses


def _units(tasks: Sequence[Task]) -> tuple[Numbers, Numbers]:
    """What is taken from the targets of each task, and what they are divided by: alike for tasks in one unit."""
    every = [_targets(task, "train") for task in tasks]
    scales = np.array([max(float(y.std()), 1e-12) for y in every])
    if scales.max() <= ALIKE * scales.min() or len({float(y.mean()) for y in every}) == 1:
        whole = np.concatenate(every)
        return np.full(len(tasks), whole.mean()), np.full(len(tasks), max(float(whole.std()), 1e-12))
    return np.array([float(y.mean()) for y in every]), scales


def _targets(task: Task, split: str) -> Numbers:
    """The targets as numbers in the user's unit, or 0 and 1 for labels."""
    rules, encoded = kind(task.definition.kind), task.splits[split].targets
    return np.asarray(rules.decode(encoded, task.definition) if rules.numeric else encoded, np.float64)


def _rows_of(
    tasks: Sequence[Task], split: str, columns: Sequence[Column], order: Sequence[int], center: Numbers, scale: Numbers
) -> _Rows:
    of = np.repeat(np.arange(len(tasks)), [len(task.splits[split]) for task in tasks])
    x = _numbers([row for task in tasks for row in task.splits[split].inputs], columns, order)
    y = np.concatenate([_targets(task, split) for task in tasks])
    return _Rows(x, (y - center[of]) / scale[of], of, np.bincount(of, minlength=len(tasks)).astype(np.float64))


def _numbers(rows: Sequence[Row], columns: Sequence[Column], order: Sequence[int]) -> Numbers:
    """Rows as numbers in single precision, in which scikit-learn's trees compare them."""
    return table_of(rows, columns, order).astype(np.float32).astype(np.float64)


@dataclass
class _Fitted:
    shared: Forest
    groups: tuple[Forest, Forest]
    own: list[Forest | None]
    theta: Numbers
    losses: dict[str, float]


class _Boosting:
    """One fit: the three parts in turn."""

    def __init__(self, train: _Rows, held: _Rows, numeric: bool, settings: RobustSettings, seed: int) -> None:
        self.train, self.held, self.numeric = train, held, numeric
        self.settings, self.seed, self.numbers = settings, seed, train.x.astype(np.float32)
        self.theta = np.random.default_rng(seed).normal(0.0, 0.1, len(train.counts))

    def fit(self) -> _Fitted:
        losses = {}
        shared = self._shared()
        losses["shared"] = self._held_loss()
        groups = self._grouped()
        losses["grouped"] = self._held_loss()
        own = self._own()
        losses["own"] = self._held_loss()
        return _Fitted(shared, groups, own, self.theta, losses)

    def _shared(self) -> Forest:
        def one(_: int) -> list[Forest]:
            rest, curve = self._slope()
            tree, seen, told = self._tree(rest, curve)
            self.train.sums += seen
            self.held.sums += told
            return [tree]

        return joined([first for (first,) in self._rounds(self.settings.shared, one)])

    def _grouped(self) -> tuple[Forest, Forest]:
        def one(_: int) -> list[Forest]:
            share = sigmoid(self.theta)
            rest, curve = self._slope()
            made = []
            for place, weight in enumerate((share[self.train.of], 1 - share[self.train.of])):
                tree, seen, told = self._tree(weight * rest, curve)
                made.append((tree, seen, told, place))
            for _tree, seen, told, place in made:
                self.train.groups[place][:] += seen
                self.held.groups[place][:] += told
            apart = self.train.groups[0] - self.train.groups[1]
            turn, penalty = share * (1 - share), self.settings.penalty
            slope = penalty * self.theta - self.train.by_task(rest * apart) * turn
            bend = penalty + self.train.by_task(curve * apart**2) * turn**2
            self.theta = self.theta - self.settings.theta_rate * np.clip(slope / bend, -MOST, MOST)
            return [tree for tree, *_ in made]

        found = self._rounds(self.settings.grouped, one)
        return joined([first for first, _ in found]), joined([second for _, second in found])

    def _own(self) -> list[Forest | None]:
        def one(_: int) -> list[Forest]:
            rest, curve = self._slope()
            made = []
            for task in range(len(self.train.counts)):
                mine, theirs = self.train.of == task, self.held.of == task
                tree, seen, told = self._tree(rest, curve, mine, theirs)
                self.train.sums[mine] += seen
                self.held.sums[theirs] += told
                made.append(tree)
            return made

        found = self._rounds(self.settings.own, one)
        return [joined(list(trees)) for trees in zip(*found, strict=True)] if found else [None] * len(self.theta)

    def _rounds(self, most: int, one: Callable[[int], list[Forest]]) -> list[list[Forest]]:
        """Rounds until the validation loss falls no more; what comes after the best is undone."""
        found: list[list[Forest]] = []
        best, kept = self._held_loss(), (0, self._state())
        for number in range(most):
            found.append(one(number))
            loss = self._held_loss()
            if loss < best:
                best, kept = loss, (number + 1, self._state())
            elif number + 1 - kept[0] >= self.settings.patience:
                break
        count, state = kept
        self.theta = state[0]
        for rows, (sums, first, second) in zip((self.train, self.held), state[1], strict=True):
            rows.sums, rows.groups = sums, (first, second)
        return found[:count]

    def _state(self) -> tuple[Numbers, list[tuple[Numbers, Numbers, Numbers]]]:
        every = [(rows.sums.copy(), rows.groups[0].copy(), rows.groups[1].copy()) for rows in (self.train, self.held)]
        return self.theta.copy(), every

    def _slope(self) -> tuple[Numbers, Numbers]:
        """The negative gradient of the loss by the output, and its curvature."""
        output = self.train.output(sigmoid(self.theta))
        if self.numeric:
            return self.train.y - output, np.ones(len(output))
        p = sigmoid(output)
        return self.train.y - p, np.maximum(p * (1 - p), FLAT)

    def _held_loss(self) -> float:
        output = self.held.output(sigmoid(self.theta))
        if self.numeric:
            return float(np.mean((self.held.y - output) ** 2))
        return float(np.mean(np.logaddexp(0.0, output) - self.held.y * output))

    def _tree(
        self,
        rest: Numbers,
        curve: Numbers,
        mine: slice | NDArray[np.bool_] = slice(None),
        theirs: slice | NDArray[np.bool_] = slice(None),
    ) -> tuple[Forest, Numbers, Numbers]:
        """A tree whose leaves are sum(rest) / sum(curve), times the rate; what it says of training and held rows."""
        from sklearn.tree import DecisionTreeRegressor

        asked, x = self.settings, self.numbers[mine]
        tree = DecisionTreeRegressor(max_depth=asked.depth, min_samples_leaf=asked.rows, random_state=self.seed)
        tree.fit(x, (rest / curve)[mine], sample_weight=curve[mine])
        leaves, nodes = tree.apply(x), tree.tree_
        value = asked.rate * np.bincount(leaves, rest[mine], nodes.node_count)
        value /= np.maximum(np.bincount(leaves, curve[mine], nodes.node_count), FLAT)
        places, ends = np.arange(nodes.node_count), nodes.children_left < 0
        made = Forest(
            value=np.asarray(value, np.float64),
            feature=np.where(ends, 0, nodes.feature).astype(np.int64),
            threshold=np.where(ends, 0.0, nodes.threshold),
            missing=nodes.missing_go_to_left.astype(np.uint8),
            left=np.where(ends, places, nodes.children_left).astype(np.int64),
            right=np.where(ends, places, nodes.children_right).astype(np.int64),
            group=np.full(nodes.node_count, -1),
            sets=np.zeros((0, CATEGORIES + 2), np.uint8),
            roots=np.zeros(1, np.int64),
            base=np.zeros(1),
        )
        return made, value[leaves], made.outputs(self.held.x[theirs])[:, 0]


def sigmoid(values: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    found: Numbers = 0.5 * (1 + np.tanh(0.5 * values))
    return found
