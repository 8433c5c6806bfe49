"""Odd cells: what a model is asked that its training rows hold nothing like."""

from __future__ import annotations

from collections.abc import Sequence

from allround.tasks.column_types import ColumnType
from allround.tasks.dates import date_days, day_text
from allround.tasks.definition import Definition
from allround.tasks.values import native, short

#: A number is far out where it lies further from the training range than this part of the range's width.
FAR = 0.5


def odd_cells(definition: Definition, cells: Sequence[object]) -> list[str]:
    """What is odd about a row of a table, in words, one for each odd cell: a category that training never had, a number
    or a date far outside the training range, a cell that is not of its column's type (and counts as missing).

    cells: as they were given, before `Modality.read_row`, or after it. Nothing is odd about rows of other modalities,
    about cells that are missing, and where the model comes from a version that kept no facts of its columns.

    >>> age = ColumnType("number", low=20.0, high=60.0)
    >>> city = ColumnType("category", categories=("Bonn", "Ulm"), count=2)
    >>> d = Definition("t", "regression", ("age", "city"), "table", "rmse", columns=(age, city))
    >>> odd_cells(d, (79.0, "Ulm"))
    []
    >>> odd_cells(d, ("810", "Rome"))
    ["age: '810' is far outside 20 to 60", "city: 'Rome' was not seen in training"]
    >>> odd_cells(d, ("old", None))
    ["age: 'old' is not a number"]
    """
    named = zip(definition.inputs, definition.columns, cells, strict=False)
    found = [(name, _odd(column, native(cell))) for name, column, cell in named]
    return [f"{name}: {words}" for name, words in found if words is not None]


def _odd(column: ColumnType, cell: object) -> str | None:
    try:
        value = column.read(cell)
    except ValueError as error:
        return f"{short(cell)} {str(error).removeprefix('it ')}"
    if value is None:
        return None
    if column.type == "category":
        known = column.count != len(column.categories) or value in column.categories
        return None if known else f"{short(value)} was not seen in training"
    if column.low is None or column.high is None:
        return f"{short(cell)} stands where training rows have nothing"
    number = date_days(value) if column.type == "date" else float(value)  # type: ignore[arg-type]
    room = FAR * (column.high - column.low)
    if column.low - room <= number <= column.high + room:
        return None
    if column.type == "date":
        return f"{short(cell)} is far outside {day_text(column.low)} to {day_text(column.high)}"
    return f"{short(cell)} is far outside {column.low:g} to {column.high:g}"
