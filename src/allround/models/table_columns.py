"""How columns of a table become numbers for trees: numbers, dates and categories."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT
from allround.tasks.values import Row, Value, is_missing

Numbers = NDArray[np.float64]

#: Most categories of a column; rarer ones count as missing.
CATEGORIES = 254


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
    if found.tzinfo is not None:
        found = found.astimezone(datetime.timezone.utc)
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
