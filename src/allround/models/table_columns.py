"""How columns of a table become numbers for trees: numbers, dates and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import STRICT
from allround.tasks.cells import are_texts, codes_of, columns_of, counts_of, numbers_in
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

    def numbers(self, cells: Sequence[Value]) -> Numbers:
        """The first number of each cell."""
        found = numbers_in(cells) if self.sort == "number" else None
        return found if found is not None else np.array([self.number(cell) for cell in cells], np.float64)


def moments(cells: Sequence[Value]) -> Numbers:
    """The numbers that stand for dates: (n, len(PARTS)), NaN where there is none."""
    known: dict[object, tuple[float, ...]] = {}
    if are_texts(cells):
        known = {cell: date_numbers(cell) for cell in set(cells)}
    found = [known[cell] if known else date_numbers(cell) for cell in cells]
    return np.array(found, np.float64).reshape(len(cells), len(PARTS))


def column_of(values: Sequence[Value], type: ColumnType | None = None) -> Column:
    """How a column is read, from its training values. type: as the definition of the task has it.

    Without one it is of numbers or dates where all values are, else of categories.

    >>> column_of(["2024-01-01", None, "2024-02-01"]).sort, column_of(["b", "a", "b"]).categories
    ('moment', ('a', 'b'))
    """
    if type is None and numbers_in(values) is not None:
        return Column("number")
    if type is not None:
        sort = {"number": "number", "date": "moment", "category": "category"}[type.type]
        return _column(sort, values)
    there = [value for value in values if not is_missing(value) and value != ""]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        sort = "number"
    else:
        sort = "moment" if there and all(is_date(value) for value in there) else "category"
    return _column(sort, values)


def _column(sort: str, values: Sequence[Value]) -> Column:
    if sort != "category":
        return Column("moment" if sort == "moment" else "number")
    counts = counts_of(values)
    counts.pop("", None)
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
    every = columns_of(rows, len(columns))
    for place in dict.fromkeys(order):
        column, at = columns[place], order.index(place)
        cells = every[place]
        if column.sort == "category":
            codes = codes_of(cells, {category: number for number, category in enumerate(column.categories)})
            found[:, at] = np.where(codes < 0, np.nan, codes)
        elif column.sort == "moment":
            found[:, at : at + column.width] = moments(cells)
        else:
            found[:, at] = column.numbers(cells)
    return found
