"""Table: columns of numbers, dates and categories, whose cells may be missing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.cells import are_texts, numbers_in
from allround.tasks.column_types import Ambiguous, ColumnType, understand
from allround.tasks.definition import Definition
from allround.tasks.modality import Choice, Example, Fail, Modality, ReadColumn, check_unicode
from allround.tasks.values import Row, Value, is_missing, native, short

if TYPE_CHECKING:
    from pyarrow import Array

#: Strays that a message lists.
SHOWN = 5


@method(source="columns of float64 numbers, of dates as ISO 8601 writes them, or of texts that are categories")
class Table(Modality):
    """Any number of columns, each of one type: see `column_types.understand`.

    >>> Table().read("x", {"train": [1, True, None], "test": [2]}, ValueError)
    {'train': [1.0, 1.0, None], 'test': [2.0]}
    """

    noun = "a number, a date or a text"
    mixes = True
    gaps = True

    def recognises(self, value: object) -> bool:
        return value is None or isinstance(value, (int, float, datetime.date))

    def fits(self, value: object) -> bool:
        return value is None or isinstance(value, (str, int, float, datetime.date))

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        return self.read_column(name, column, fail).values

    def read_column(
        self, name: str, column: Mapping[str, Sequence[object]], fail: Fail, choice: Choice | None = None
    ) -> ReadColumn:
        choice = choice or Choice()
        for split, given in column.items():
            wrong = (
                []
                if _all_fit(given)
                else [
                    v for v in given if not (is_missing(v) or self.fits(v)) or (isinstance(v, float) and math.isinf(v))
                ]
            )
            if wrong:
                raise fail(
                    f"input '{name}' of {split} is neither a finite number nor text in {len(wrong)} of "
                    f"{len(given)} rows, such as {short(wrong[0])}",
                    "give numbers, dates or text; leave a cell empty where the value is missing",
                )
        try:
            type_ = understand(column["train"], choice.type)
        except Ambiguous as error:
            raise fail(
                f"the dates in the input '{name}' can be read in several ways: {error}",
                f"say which is meant: `types: {{{name}: 'date {str(error).split(' or ')[0]}'}}`",
            ) from None
        found: dict[str, list[Value]] = {}
        notes: list[str] = []
        for split, given in column.items():
            found[split], strays = _read(type_, given)
            if type_.type == "category":
                check_unicode(name, split, [v for v in found[split] if v is not None], fail)  # type: ignore[misc]
            if not strays:
                continue
            listed = ", ".join(f"{short(value)} (row {row})" for row, value in list(strays.items())[:SHOWN])
            more = f" and {len(strays) - SHOWN} more" if len(strays) > SHOWN else ""
            if choice.stray == "missing":
                notes.append(f"{len(strays)} of {len(given)} {split} cells of '{name}' are not {type_.type}s and count "
                             f"as missing: {listed}{more}")  # fmt: skip
                continue
            raise fail(
                f"input '{name}' holds {type_.type}s, and something else in {len(strays)} of {len(given)} rows of "
                f"{split}: {listed}{more}",
                f"correct these cells; or set `stray: missing` to count them as missing, or "
                f"`types: {{{name}: category}}` to read the whole column as categories",
            )
        return ReadColumn(found, type_, tuple(notes))

    def read_row(self, definition: Definition, cells: Sequence[object], row: int) -> Row:
        if not definition.columns:  # a model of an earlier version
            return super().read_row(definition, cells, row)
        return tuple(_cell(column, cell) for column, cell in zip(definition.columns, cells, strict=True))

    def parse(self, value: object, row: int) -> Value:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return value  # type: ignore[return-value]

    def numbers(self, row: Row) -> NDArray[np.float32] | None:
        """float32 (columns,)."""
        return np.array([float(value) for value in row], dtype=np.float32)  # type: ignore[arg-type]

    def to_arrow(self, values: Sequence[Value]) -> Array:
        import pyarrow as pa

        first = next((v for v in values if v is not None), None)
        return pa.array(values, pa.large_string() if isinstance(first, str) else pa.float64())

    def example(self, columns: int) -> Example:
        numbers = [str(1.0 + 1.5 * i) for i in range(columns)]
        inner = ", ".join(numbers) + ("," if columns == 1 else "")
        return Example((None,) * columns, " ".join(numbers), f"[({inner})]")


def _all_fit(given: Sequence[object]) -> bool:
    """Whether all cells are finite numbers, or all are texts, as far as they are there."""
    numbers = numbers_in(given)
    return are_texts(given) if numbers is None else not np.isinf(numbers).any()


def _read(column: ColumnType, given: Sequence[object]) -> tuple[list[Value], dict[int, object]]:
    """The values of a column, and those that are not of its type by their rows."""
    if are_texts(given):
        known, odd = _read_cells(column, list(dict.fromkeys(given)))
        texts = dict(zip(dict.fromkeys(given), known, strict=True))
        wrong = set(odd.values())
        return list(map(texts.__getitem__, given)), {r: v for r, v in enumerate(given) if v in wrong} if wrong else {}
    numbers = numbers_in(given) if column.type == "number" else None
    if numbers is not None and not np.isinf(numbers).any():
        values: list[Value] = numbers.tolist()
        return [None if value != value else value for value in values] if np.isnan(numbers).any() else values, {}
    return _read_cells(column, given)


def _read_cells(column: ColumnType, given: Sequence[object]) -> tuple[list[Value], dict[int, object]]:
    """As `_read`, cell by cell."""
    strays: dict[int, object] = {}
    values: list[Value] = []
    for row, value in enumerate(given):
        try:
            values.append(column.read(value))
        except ValueError:
            strays[row] = value
            values.append(None)
    return values, strays


def _cell(column: ColumnType, cell: object) -> Value:
    try:
        return column.read(native(cell))
    except ValueError:
        return None
