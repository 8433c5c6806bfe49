"""How columns of a table become numbers for trees: numbers, dates and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT
from allround.tasks.column_types import ColumnType
from allround.tasks.dates import PARTS, date_days, date_numbers, is_date
from allround.tasks.values import Row, Value, is_missing

Numbers = NDArray[np.float64]

#: Most categories of a column; rarer ones count as missing.
CATEGORIES = 254


@dataclass(frozen=True)
class Column:
    """How a column is read.

    sort: `number`, `moment` (a date, as the numbers of `date_numbers`), `category` (its place in `categories`), or
    `date` (the first of these numbers alone, as earlier versions read dates).
    """

    __pydantic_config__ = STRICT

    sort: Literal["number", "date", "moment", "category"]
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers stand for a value."""
        return len(PARTS) if self.sort == "moment" else 1

    def number(self, value: Value) -> float:
        """The first number that stands for a value; NaN where it is missing or was not seen in training."""
        if is_missing(value) or value == "":
            return np.nan
        if self.sort == "number":
            try:
                return float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                return np.nan
        if self.sort in ("date", "moment"):
            return date_days(value)
        try:
            return float(self.categories.index(str(value)))
        except ValueError:
            return np.nan


def column_of(values: Sequence[Value], type: ColumnType | None = None) -> Column:
    """How a column is read, from its training values. type: as the definition of the task has it.

    Without one it is of numbers or dates where all values are, else of categories.

    >>> column_of(["2024-01-01", None, "2024-02-01"]).sort, column_of(["b", "a", "b"]).categories
    ('moment', ('a', 'b'))
    """
    there = [value for value in values if not is_missing(value) and value != ""]
    if type is not None:
        sort = {"number": "number", "date": "moment", "category": "category"}[type.type]
    elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        sort = "number"
    else:
        sort = "moment" if there and all(is_date(value) for value in there) else "category"
    if sort != "category":
        return Column("moment" if sort == "moment" else "number")
    counts = Counter(str(value) for value in there)
    return Column("category", tuple(sorted(sorted(counts, key=lambda c: (-counts[c], c))[:CATEGORIES])))


def order_of(columns: Sequence[Column]) -> tuple[int, ...]:
    """The places of columns as trees read them, one for each number: categories first.

    >>> order_of([Column("number"), Column("category", ("a",)), Column("date")])
    (1, 0, 2)
    >>> order_of([Column("moment"), Column("number")])
    (0, 0, 0, 0, 0, 0, 1)
    """
    places = sorted(range(len(columns)), key=lambda place: (columns[place].sort != "category", place))
    return tuple(place for place in places for _ in range(columns[place].width))


def table_of(rows: Sequence[Row], columns: Sequence[Column], order: Sequence[int]) -> Numbers:
    """Rows as numbers: (n, len(order)), in an order of `order_of`."""
    found = np.empty((len(rows), len(order)))
    for place in dict.fromkeys(order):
        column, at = columns[place], order.index(place)
        if column.sort == "category":
            known = {category: float(number) for number, category in enumerate(column.categories)}
            missing = np.nan
            found[:, at] = [missing if is_missing(row[place]) else known.get(str(row[place]), missing) for row in rows]
        elif column.sort == "moment":
            numbers = [date_numbers(row[place]) for row in rows]
            found[:, at : at + column.width] = np.array(numbers).reshape(len(rows), column.width)
        else:
            found[:, at] = [column.number(row[place]) for row in rows]
    return found
