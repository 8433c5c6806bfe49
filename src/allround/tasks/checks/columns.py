"""Checks of a table's columns: what they were understood as, which say nothing, and which give the target away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allround.core.seeds import seed_of
from allround.tasks.checks.finding import Finding
from allround.tasks.column_types import ColumnType
from allround.tasks.dates import date_days
from allround.tasks.kind import kind
from allround.tasks.numbers import number_of
from allround.tasks.task import Task
from allround.tasks.values import Value, short

#: More categories than this are many.
MANY = 100
#: Rows that a column is tried out on, and how much of what the commonest answer leaves open it must explain.
ROWS, EXPLAINED = 2000, 0.95


def check_columns(task: Task) -> list[Finding]:
    """What is worth knowing about each column of a table."""
    found: list[Finding] = []
    train, definition = task.splits["train"], task.definition
    for place, (name, column) in enumerate(zip(definition.inputs, definition.columns, strict=False)):
        values = [row[place] for row in train.inputs]
        there = [value for value in values if value is not None]
        found += _constant(name, there, len(values))
        found += _categories(name, column, there)
    return [*found, *_given_away(task)]


def _constant(name: str, there: Sequence[Value], rows: int) -> list[Finding]:
    if not there:
        return [Finding("constant", f"column '{name}' is missing in all {rows} train rows", "leave it out")]
    if all(value == there[0] for value in there) and len(there) == rows:
        return [Finding("constant", f"column '{name}' is {short(there[0])} in all train rows", "leave it out")]
    if len(there) < 0.5 * rows:
        words = f"column '{name}' is missing in {rows - len(there)} of {rows} train rows"
        return [Finding("mostly_missing", words, "see that it was read from the right place")]
    return []


def _categories(name: str, column: ColumnType, there: Sequence[Value]) -> list[Finding]:
    if column.type != "category":
        return []
    found = []
    texts = [value for value in there if isinstance(value, str)]
    numbers = sum(number_of(text) is not None for text in texts)
    if texts and numbers >= 0.5 * len(texts):
        share = f"{100 * numbers / len(texts):.0f}%"
        words = f"column '{name}' was read as categories, and {share} of its values are numbers"
        found.append(Finding("numbers_as_categories", words, f"if it holds amounts, say `types: {{{name}: number}}`"))
    if column.count > MANY or (column.count > 20 and column.count > 0.5 * len(there)):
        words = f"column '{name}' is a category with {column.count} values in {len(there)} train rows"
        do = "leave it out where it is a name or a number of the row; of texts, make a text task"
        found.append(Finding("many_categories", words, do))
    return found


def _given_away(task: Task) -> list[Finding]:
    """Columns that predict the target of held-out rows by themselves, all but without error."""
    definition, rules = task.definition, kind(task.definition.kind)
    if rules.lists or rules.per_token or rules.written or rules.ranked:
        return []
    rng = np.random.default_rng(seed_of(0, "checks"))
    train, held = (_some(task, splits, rng) for splits in (("train",), ("validation", "test")))
    if len(train[1]) < 20 or len(held[1]) < 5:
        return []
    found = []
    for place, (name, column) in enumerate(zip(definition.inputs, definition.columns, strict=False)):
        x, z = ([row[place] for row in rows] for rows, _ in (train, held))
        explained = _explained(column, x, train[1], z, held[1], numeric=rules.numeric)
        if explained >= EXPLAINED:
            words = f"column '{name}' all but gives the target away: alone it explains {100 * explained:.0f}% of it"
            do = "leave it out if it is not known when the model is used"
            found.append(Finding("given_away", words, do))
    return found


def _some(
    task: Task, splits: Sequence[str], rng: np.random.Generator
) -> tuple[list[tuple[Value, ...]], NDArray[np.float64]]:
    rows = [row for split in splits for row in task.splits[split].inputs]
    targets = np.concatenate([np.asarray(task.splits[split].targets, dtype=np.float64) for split in splits])
    chosen = np.sort(rng.permutation(len(rows))[:ROWS])
    return [rows[i] for i in chosen], targets[chosen]


def _explained(
    column: ColumnType,
    x: Sequence[Value],
    y: NDArray[np.float64],
    z: Sequence[Value],
    held: NDArray[np.float64],
    *,
    numeric: bool,
) -> float:
    """How much of what the mean or the commonest label leaves open a column explains on held-out rows, at most 1."""
    if column.type == "category":
        predicted = _by_category(x, y, z, numeric=numeric)
    else:
        predicted = _by_number(_numbers(column, x), y, _numbers(column, z), numeric=numeric)
    if numeric:
        rest = float(((held - y.mean()) ** 2).sum())
        return 1 - float(((held - predicted) ** 2).sum()) / rest if rest > 0 else 0.0
    common = float((held == Counter(y.tolist()).most_common(1)[0][0]).mean())
    right = float((held == predicted).mean())
    return (right - common) / (1 - common) if common < 1 else 0.0


def _numbers(column: ColumnType, values: Sequence[Value]) -> NDArray[np.float64]:
    numbers = [date_days(v) if column.type == "date" else np.nan if v is None else float(v) for v in values]  # type: ignore[arg-type]
    return np.array(numbers)


def _by_number(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], *, numeric: bool
) -> NDArray[np.float64]:
    """What a small tree says. A missing value lies below all others."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    low = np.nanmin(x) - 1 if np.isfinite(x).any() else 0.0
    sort = DecisionTreeRegressor if numeric else DecisionTreeClassifier
    tree = sort(max_leaf_nodes=64, min_samples_leaf=3, random_state=0)
    tree.fit(np.nan_to_num(x, nan=low)[:, None], y)
    found: NDArray[np.float64] = tree.predict(np.nan_to_num(z, nan=low)[:, None])
    return found


def _by_category(
    x: Sequence[Value], y: NDArray[np.float64], z: Sequence[Value], *, numeric: bool
) -> NDArray[np.float64]:
    """The mean, or the commonest label, of the rows with the same category."""
    groups: dict[Value, list[float]] = defaultdict(list)
    for value, target in zip(x, y.tolist(), strict=True):
        groups[value].append(target)
    every = y.tolist()

    def answer(targets: list[float]) -> float:
        return float(np.mean(targets)) if numeric else Counter(targets).most_common(1)[0][0]

    known = {value: answer(targets) for value, targets in groups.items()}
    rest = answer(every)
    return np.array([known.get(value, rest) for value in z])
