"""Draws: how validation and test are taken out of the rows where they are not given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from allround.core.errors import suggestion
from allround.core.schema import STRICT
from allround.core.seeds import seed_of
from allround.tasks.column_types import Ambiguous, understand
from allround.tasks.dates import date_days
from allround.tasks.values import is_missing, native, plain, short

#: The part of the rows that validation and test get, each.
SHARE = 0.1


@dataclass(frozen=True)
class SplitRule:
    """How splits are drawn. At most one of the columns `by`, `time` and `stratify` is named.

    by: rows with the same value there stay in one split (of dates: as `time`). time: the latest rows are for test, and
    those before for validation. stratify: each value has about the same share in every split. validation, test: their
    sizes, as a part of the rows (0.2), or as a number of them (100).
    """

    __pydantic_config__ = STRICT

    by: str | None = None
    time: str | None = None
    stratify: str | None = None
    validation: float | int = SHARE
    test: float | int = SHARE

    @property
    def column(self) -> str | None:
        """The column that it reads."""
        return self.by or self.time or self.stratify

    @property
    def words(self) -> str:
        """How rows are drawn, after "a seeded draw of the rows makes ...".

        >>> SplitRule(by="customer").words, SplitRule().words
        (", by whole groups of 'customer'", '')
        """
        if self.by:
            return f", by whole groups of '{self.by}'"
        return f", with the shares of '{self.stratify}'" if self.stratify else ""

    def problem(self) -> tuple[str, str] | None:
        """What is wrong with it, and what to do; None where nothing is.

        >>> SplitRule(by="a", time="b").problem()
        ('`split` names by and time', 'name one of them')
        """
        named = [name for name in ("by", "time", "stratify") if getattr(self, name)]
        if len(named) > 1:
            return f"`split` names {' and '.join(named)}", "name one of them"
        for name in ("validation", "test"):
            size = getattr(self, name)
            number = isinstance(size, (int, float)) and not isinstance(size, bool)
            if not number or not size > 0 or not math.isfinite(size) or (size >= 1 and size != int(size)):
                return (
                    f"`split` gives {name} the size {short(size)}",
                    "give a part of the rows such as 0.2, or a number",
                )
        return None

    def size(self, split: str, rows: int) -> int:
        """How many of so many rows a split gets."""
        asked = getattr(self, split)
        return int(asked) if asked >= 1 else max(1, round(rows * asked))


def rule_of(given: Mapping[str, object]) -> SplitRule | str:
    """A rule from what a user gave, or what is wrong with its keys.

    >>> rule_of({"buy": "customer"})
    "there is no key 'buy'; did you mean 'by'? (known: by, stratify, test, time, validation)"
    """
    known = [field.name for field in fields(SplitRule)]
    for name in given:
        if name not in known:
            return f"there is no key '{name}'; {suggestion(name, known)}"
    return SplitRule(**given)  # type: ignore[arg-type]


def split_keys(rule: SplitRule, values: Sequence[object]) -> tuple[SplitRule, list[str | float | None]]:
    """The rule as it is meant, and what it goes by in each row: a group or a stratum as text, a time as a number.

    Errors: a ValueError for what is no time.

    >>> split_keys(SplitRule(by="when"), ["1970-01-02", None])
    (SplitRule(by=None, time='when', stratify=None, validation=0.1, test=0.1), [1.0, None])
    >>> split_keys(SplitRule(by="who"), ["a", 7.0])[1]
    ['a', '7']
    """
    values = [native(value) for value in values]
    there = [value for value in values if not is_missing(value) and value != ""]
    if rule.stratify or rule.by:
        try:
            dates = bool(rule.by) and understand(there).type == "date"
        except Ambiguous:
            dates = True
        if not dates:
            return rule, [None if is_missing(value) or value == "" else plain(value) for value in values]
        rule = SplitRule(time=rule.by, validation=rule.validation, test=rule.test)
    column = understand(there)  # Ambiguous is a ValueError
    if column.type == "category":
        raise ValueError(f"it holds neither dates nor numbers, such as {short(there[0]) if there else None}")
    keys: list[str | float | None] = []
    for value in values:
        read = column.read(value)
        keys.append(date_days(read) if column.type == "date" else None if read is None else float(read))  # type: ignore[arg-type]
    return rule, [None if key is None or key != key else key for key in keys]


def draw(
    rule: SplitRule,
    split: str,
    count: int,
    rows: Sequence[Hashable],
    keys: Sequence[str | float | None],
    labels: Sequence[set[str]],
) -> set[int]:
    """About `count` rows for a split; empty where none can be spared.

    rows: equal for equal inputs, which stay together. keys: of `split_keys`; empty where the rule names no column.
    labels: of each row; each keeps a row outside, except where time decides.
    """
    if rule.time:
        return _latest(count, keys)
    # Not seeded by the task's name: tasks on the same rows must not test on each other's training rows.
    order = np.random.default_rng(seed_of(0, "split", split)).permutation(len(rows)).tolist()
    if rule.by:
        names: list[Hashable] = [("row", i) if key is None else key for i, key in enumerate(keys)]
        groups = [*dict.fromkeys(names[i] for i in order)]
        members: dict[Hashable, list[int]] = {key: [] for key in groups}
        for i, key in enumerate(names):
            members[key].append(i)
        taken = take([members[key] for key in groups], labels, count)
        return taken or take([min(members.values(), key=len)], labels, len(rows) - 1)
    equal: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        equal.setdefault(row, []).append(i)
    together = list({rows[i]: equal[rows[i]] for i in order}.values())
    if rule.stratify:
        return _in_shares(together, labels, keys, count)
    # Where a few distinct inputs make up all rows, they cannot be kept apart.
    return take(together, labels, count) or take([[i] for i in order], labels, count)


def take(groups: Sequence[Sequence[int]], labels: Sequence[set[str]], count: int) -> set[int]:
    """At most `count` rows in whole groups, so that each label, and some row, stays outside."""
    left = Counter(label for row in labels for label in row)
    taken: set[int] = set()
    for group in groups:
        if group[0] in taken or len(taken) + len(group) > min(count, len(labels) - 1):
            continue
        gone = Counter(label for i in group for label in labels[i])
        if all(left[label] > n for label, n in gone.items()):
            left.subtract(gone)
            taken.update(group)
    return taken


def _latest(count: int, keys: Sequence[str | float | None]) -> set[int]:
    """The latest rows, of which those of one moment stay together; rows without a time are never among them."""
    moments: dict[float, list[int]] = {}
    for i, key in enumerate(keys):
        if isinstance(key, float):
            moments.setdefault(key, []).append(i)
    taken: set[int] = set()
    for moment in sorted(moments, reverse=True)[:-1]:
        if taken and len(taken) + len(moments[moment]) / 2 > count:
            break
        taken.update(moments[moment])
    return taken


def _in_shares(
    groups: Sequence[Sequence[int]], labels: Sequence[set[str]], keys: Sequence[str | float | None], count: int
) -> set[int]:
    sizes = Counter(keys)
    exact = {key: count * size / len(keys) for key, size in sizes.items()}
    quota = {key: min(int(share), sizes[key] - 1) for key, share in exact.items()}
    for key in sorted(exact, key=lambda key: int(exact[key]) - exact[key])[: count - sum(map(int, exact.values()))]:
        quota[key] = min(quota[key] + 1, sizes[key] - 1)
    fitting = []
    for group in groups:
        key = keys[group[0]]
        if quota[key] >= len(group):
            quota[key] -= len(group)
            fitting.append(group)
    return take(fitting, labels, len(labels))
