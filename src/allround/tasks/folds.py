"""Folds: all rows of a suite's tasks in some parts, each of which is tested by models that did not see it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.words import plural
from allround.tasks.kind import Encoded, kind
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Split, Task, row_key, text_row


@dataclass(frozen=True)
class _Unit:
    """Rows that stay together. order: by which units are dealt out; stratum: what each fold has its share of."""

    stratum: str
    order: str


def fold_suites(suite: Suite, count: int) -> list[Suite]:
    """One suite for each of `count` folds: its test rows are the fold, validation and training rows are the others.

    All rows of train, validation and test are dealt out. Equal inputs stay together, whole groups where a task's splits
    go by groups, and tasks on the same rows have the same folds. Each fold has its share of the labels of the first
    task that has labels, as far as the rows allow. Definitions stay as they are, so that scores can be pooled.

    Errors: fewer than two folds; a task whose splits follow time; fewer distinct rows than folds.
    """
    asked = f"test the suite '{suite.name}' in {plural(count, 'fold')}"
    if count < 2:
        raise AllroundError(asked, "at least two folds are needed", "give 2 or more, such as 5")
    timed = [task.name for task in suite if task.rule is not None and task.rule.time]
    if timed:
        found = f"the splits of '{timed[0]}' follow time, and folds would train on what comes after the test rows"
        raise AllroundError(asked, found, "leave the folds out, or the `time` of the splits")
    units: dict[Hashable, _Unit] = {}
    sizes: dict[Hashable, int] = {}
    for task in suite:
        counts = Counter(_keys(task))
        sizes.update({key: max(count, sizes.get(key, 0)) for key, count in counts.items()})
        for key, label in zip(_keys(task), _labels(task), strict=True):
            digest = hashlib.sha256(repr(key).encode()).hexdigest()
            if key not in units or (not units[key].stratum and label):
                units[key] = _Unit(label, digest)
    if len(units) < 2 * count:
        found = f"only {plural(len(units), 'distinct row')} can be told apart"
        raise AllroundError(asked, found, "give fewer folds, or more rows")
    places = _deal(units, sizes, count)
    return [_suite_of(suite, places, units, number, count) for number in range(count)]


def _keys(task: Task) -> Iterator[Hashable]:
    """What keeps each row of a task together with others, train first."""
    for name in SPLITS:
        split = task.splits[name]
        for place, row in enumerate(split.inputs):
            group = split.keys[place] if split.keys and task.rule is not None and task.rule.by else None
            yield ("group", group) if group is not None else ("row", row_key(text_row(row)))


def _labels(task: Task) -> Iterator[str]:
    """The label of each row, or what the task's splits are stratified by; empty where it has none."""
    rules = kind(task.definition.kind)
    for name in SPLITS:
        split = task.splits[name]
        if split.keys and task.rule is not None and task.rule.stratify:
            yield from (str(key) for key in split.keys)
        elif not rules.labelled or rules.lists:
            yield from [""] * len(split)
        else:
            yield from (str(target) for target in np.asarray(split.targets).tolist())


def _deal(units: dict[Hashable, _Unit], sizes: dict[Hashable, int], count: int) -> dict[Hashable, int]:
    """The fold of each unit: the one with the fewest rows of its stratum, and of these the one with the fewest rows."""
    filled = np.zeros(count, dtype=np.int64)
    of_stratum: dict[str, np.ndarray] = {}
    places: dict[Hashable, int] = {}
    for key in sorted(units, key=lambda key: (units[key].stratum, units[key].order)):
        same = of_stratum.setdefault(units[key].stratum, np.zeros(count, dtype=np.int64))
        place = min(range(count), key=lambda number: (same[number], filled[number], number))
        places[key] = place
        filled[place] += sizes[key]
        same[place] += sizes[key]
    return places


def _suite_of(
    suite: Suite, places: dict[Hashable, int], units: dict[Hashable, _Unit], number: int, count: int
) -> Suite:
    """The suite whose test rows are those of one fold."""
    first = next(iter(suite))
    held = len(first.splits["validation"])
    every = max(2, round((held + len(first.splits["train"])) / held))
    rest = [key for key in units if places[key] != number]
    rest.sort(key=lambda key: (units[key].stratum, units[key].order[::-1], str(number)))
    validation = set(rest[number % every :: every])
    tasks = [_task_of(task, places, validation, number, count) for task in suite]
    return Suite(suite.name, tasks, description=suite.description, base=suite.base, files=suite.files)


def _task_of(task: Task, places: dict[Hashable, int], validation: set[Hashable], number: int, count: int) -> Task:
    every = _all_rows(task)
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for row, key in enumerate(_keys(task)):
        parts["test" if places[key] == number else "validation" if key in validation else "train"].append(row)
    for name, rows in parts.items():
        if not rows:
            raise AllroundError(
                f"test the task '{task.name}' in {plural(count, 'fold')}",
                f"fold {number + 1} has no {name} rows: it has {plural(len(every), 'row')} in all",
                "give fewer folds, or more rows",
            )
    _keep_labels(task, every, parts)
    note = f"fold {number + 1} of {count}: {len(parts['test'])} of all {len(every)} rows are for test"
    splits = {name: every.take(sorted(rows)) for name, rows in parts.items()}
    return replace(task, splits=splits, notes=(note,))  # the others are of the suite's own splits


def _keep_labels(task: Task, every: Split, parts: dict[str, list[int]]) -> None:
    """Validation rows whose label no training row has go to train."""
    rules = kind(task.definition.kind)
    if not rules.labelled or rules.lists:
        return
    targets = np.asarray(every.targets)
    seen = set(targets[parts["train"]].tolist())
    lost = [row for row in parts["validation"] if targets[row].item() not in seen]
    if lost and len(lost) < len(parts["validation"]):
        parts["train"] += lost
        parts["validation"] = [row for row in parts["validation"] if row not in set(lost)]


def _all_rows(task: Task) -> Split:
    """The rows of all splits as one, train first."""
    splits = [task.splits[name] for name in SPLITS]
    rows = None if splits[0].rows is None else np.concatenate([np.asarray(split.rows) for split in splits])
    keys = [key for split in splits for key in split.keys]
    slices = {name: [value for split in splits for value in split.slices[name]] for name in splits[0].slices}
    return Split([row for split in splits for row in split.inputs], _joined(splits), rows, slices, keys)


def _joined(splits: Sequence[Split]) -> Encoded:
    if isinstance(splits[0].targets, np.ndarray):
        return np.concatenate([split.targets for split in splits])
    return [target for split in splits for target in split.targets]
