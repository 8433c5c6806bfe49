"""Types of a table's columns: how each is understood, from its training values or by choice, and how cells are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from allround.core.errors import suggestion
from allround.core.schema import STRICT
from allround.tasks.cells import are_texts, numbers_in
from allround.tasks.dates import date_days, date_formats, date_of, date_text, day_text, is_date, is_format
from allround.tasks.numbers import number_of, writing_of
from allround.tasks.values import Value, is_missing, is_missing_word, plain, short

Type: TypeAlias = Literal["number", "date", "category"]
TYPES: tuple[str, ...] = get_args(Type)

#: A column is of numbers, or of dates, where at least this share of its values is; the others are strays.
SHARE = 0.9
#: Most categories that are listed.
CATEGORIES = 1000


@dataclass(frozen=True)
class ColumnType:
    """How a column of a table is read, and what its training rows hold.

    format: of dates, as `strptime` has it ("" is ISO 8601); of numbers, how they are written (see `numbers.Writing`).
    low, high: the least and the greatest number; of dates, in days since 1970-01-01. categories: those that were seen,
    sorted; `count` of them, also where that is more than are listed.
    """

    __pydantic_config__ = STRICT

    type: Type
    format: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    count: int = 0

    def read(self, value: object) -> Value:
        """A cell as models are given it: a float, a date as ISO 8601 writes it, a category; None where it is missing.

        Errors: a ValueError for what is not of this type.

        >>> ColumnType("number", ",").read("1,5"), ColumnType("category").read(10001.0), ColumnType("date").read("NA")
        (1.5, '10001', None)
        """
        if is_missing(value):
            return None
        if self.type == "category":
            if not isinstance(value, (str, int, float)):
                moment = date_of(value)
                if moment is None:
                    raise ValueError("it is neither a number nor a text")
                return date_text(moment)
            return plain(value)
        if isinstance(value, str) and is_missing_word(value):
            return None
        if self.type == "date":
            moment = date_of(value, self.format)
            if moment is None:
                raise ValueError("it is not a date")
            return date_text(moment)
        number = number_of(value, self.format) if isinstance(value, str) else value
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError("it is not a number")
        return float(number)

    def with_facts(self, values: Sequence[Value]) -> ColumnType:
        """The same with what these training values hold."""
        there = set(values) - {None}
        if self.type == "category":
            seen = sorted({str(value) for value in there})
            return replace(self, categories=tuple(seen[:CATEGORIES]), count=len(seen))
        numbers = [date_days(value) if self.type == "date" else float(value) for value in there]  # type: ignore[arg-type]
        return replace(self, low=min(numbers, default=None), high=max(numbers, default=None))


class Ambiguous(ValueError):
    """Dates that fit two formats."""


def understand(values: Sequence[object], given: str | None = None) -> ColumnType:
    """How a column is read, from its training values. given: its type by choice; `date` with its format after a space.

    Numbers and truth values are numbers, moments are dates. Text is a category, unless at least nine tenths of a
    column are numbers or dates. Where all of it is text that consists of digits, someone made it text: a category.

    Errors: `Ambiguous`.

    >>> understand(["1", "1"]).type, understand([1, 2, None]).type, understand(["1"] * 9 + ["no"]).type
    ('category', 'number', 'number')
    >>> understand(["2024-01-31", "2024-02-01"]), understand([1.0, 2.0], "category").type
    (ColumnType(type='date', format='', low=None, high=None, categories=(), count=0), 'category')
    """
    if given is None and numbers_in(values) is not None:
        return ColumnType("number")
    there, texts = _there(values)
    if given is not None:
        type_, _, format = given.partition(" ")
        if type_ == "category":
            return ColumnType("category")
        if type_ == "number":
            return ColumnType("number", writing_of(texts))
        return ColumnType("date", format or _format(texts))
    other = [] if len(texts) == len(there) else [value for value in there if not isinstance(value, str)]
    numbers = sum(isinstance(value, (int, float)) for value in other)
    count, distinct = len(there), Counter(texts)
    if not texts and numbers == count:
        return ColumnType("number")
    writing = writing_of(list(distinct))
    spelt = sum(n for text, n in distinct.items() if number_of(text, writing) is not None)
    if numbers + spelt >= SHARE * count and (numbers or writing or spelt < len(texts)):
        return ColumnType("number", writing)
    moments = sum(map(is_date, other))
    if moments + len(texts) >= SHARE * count and not spelt and (not texts or date_formats(texts, SHARE)):
        return ColumnType("date", _format(texts))
    return ColumnType("category")


def _there(values: Sequence[object]) -> tuple[Sequence[object], list[str]]:
    """The values that are not missing, and those of them that are texts."""
    if are_texts(values):
        gone = {value for value in set(values) if value is None or is_missing_word(value)}  # type: ignore[arg-type]
        texts: list[str] = [value for value in values if value not in gone]  # type: ignore[misc]
        return texts, texts
    there = [v for v in values if not is_missing(v) and not (isinstance(v, str) and is_missing_word(v))]
    return there, [value for value in there if isinstance(value, str)]


def _format(texts: Sequence[str]) -> str:
    found = date_formats(texts, SHARE)
    if len(found) > 1:
        raise Ambiguous(" or ".join(found))
    return found[0] if found else ""


def check_type(given: str) -> str | None:
    """What is wrong with a type as a user gives it, and what to do; None where it is one.

    >>> check_type("category"), check_type("date %d/%m/%Y"), check_type("dat")
    (None, None, "did you mean 'date'? (known: category, date, number)")
    """
    type_, _, format = given.partition(" ")
    if type_ not in TYPES:
        return suggestion(type_, TYPES)
    if format and (type_ != "date" or not is_format(format)):
        return "give the format of dates after `date`, such as `date %d/%m/%Y`, and nothing after other types"
    return None


def columns_in_words(names: Sequence[str], columns: Sequence[ColumnType]) -> Mapping[str, str]:
    """Each column as it was understood.

    >>> number = ColumnType("number", low=1.0, high=20.0)
    >>> columns_in_words(["age", "zip"], [number, ColumnType("category", categories=("01", "02"), count=2)])
    {'age': 'number, 1 to 20', 'zip': "category, 2 values such as '01'"}
    """
    return {name: _words(column) for name, column in zip(names, columns, strict=True)}


def _words(column: ColumnType) -> str:
    if column.type == "category":
        such = f" such as {short(column.categories[0])}" if column.categories else ""
        return f"category, {column.count} value{'s' * (column.count != 1)}{such}"
    if column.low is None or column.high is None:
        return f"{column.type}, missing in all rows"
    if column.type == "number":
        written = f", written as {'1,5' if column.format == ',' else '1,000.5'}" if column.format else ""
        return f"number, {column.low:g} to {column.high:g}{written}"
    written = f", written as {column.format}" if column.format else ""
    return f"date, {day_text(column.low)} to {day_text(column.high)}{written}"
