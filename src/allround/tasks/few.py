"""A few rows of a split, in which the labels have their shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from allround.core.seeds import seed_of
from allround.tasks.kind import kind
from allround.tasks.task import Split, Task


def few_rows(split: Split, rows: int, seed: int, strata: Sequence[Hashable] | None = None) -> Split:
    """At most `rows` rows, drawn by `seed`, in their old order.

    strata: a group for each row. Each group has its share of the rows that are drawn, and one row at least where there
    are rows enough; rows that are left over go to the largest remainders.

    >>> split = Split([(i,) for i in range(8)], np.array([0, 0, 0, 0, 0, 0, 1, 2]))
    >>> few_rows(split, 4, seed=0, strata=[0, 0, 0, 0, 0, 0, 1, 2]).targets.tolist()
    [0, 0, 1, 2]
    """
    if rows >= len(split):
        return split
    order = np.random.default_rng(seed).permutation(len(split)).tolist()
    left = shares(Counter([None] * len(split) if strata is None else strata), rows)
    taken = []
    for row in order:
        group = None if strata is None else strata[row]
        if left[group]:
            left[group] -= 1
            taken.append(row)
    return split.take(sorted(taken))


def shares(sizes: Counter[Hashable], rows: int) -> Counter[Hashable]:
    """How many of some rows each group has. sizes: of the groups, more in all than rows.

    >>> sorted(shares(Counter("aaaaaabbbc"), 5).items()), sorted(shares(Counter("aaab"), 1).items())
    ([('a', 3), ('b', 1), ('c', 1)], [('a', 1), ('b', 0)])
    """
    groups = sorted(sizes, key=lambda group: (-sizes[group], str(group)))
    total = sum(sizes.values())
    exact = {group: rows * sizes[group] / total for group in groups}
    each = int(rows >= len(groups))
    found = Counter({group: max(each, int(exact[group])) for group in groups})
    while sum(found.values()) > rows:  # the one row of small groups is taken from where most is above its share
        found[max((g for g in groups if found[g] > each), key=lambda g: found[g] - exact[g])] -= 1
    while sum(found.values()) < rows:
        found[max((g for g in groups if found[g] < sizes[g]), key=lambda g: exact[g] - found[g])] += 1
    return found


def few_of(task: Task, rows: int, seed: int) -> Task:
    """A task with so many training rows and validation rows at most, and all of its test rows."""
    rules = kind(task.definition.kind)
    splits = dict(task.splits)
    for name in ("train", "validation"):
        strata = rules.strata(splits[name].targets)
        splits[name] = few_rows(splits[name], rows, seed_of(seed, "few", task.name, name), strata)
    return replace(task, splits=splits)
