"""Columns of a table as standardised numbers, categories and marks of what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allround.core.schema import fitted
from allround.models.plain.reader import Arrays, Reader, Strengths, check_array, check_names
from allround.models.table_columns import Column, Numbers, column_of, table_of
from allround.tasks.definition import Definition
from allround.tasks.values import Row

#: Numbers are cut off here, so that their squares are finite.
LARGEST = 1e18
#: Standardised numbers lie between -FAR and FAR: one that is far out must not overrule all other columns.
FAR = 20.0


@dataclass(frozen=True)
class Columns(Reader):
    """Numbers, and those that stand for dates, less `centre` over `scale`; a number for each category.

    Each column of numbers or dates has a mark where it is missing. A missing number is the mean, and a category that
    training did not see is none. Shapes: centre, scale (numbers of all columns, a category being one).
    """

    columns: tuple[Column, ...]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    sort = "columns"
    words = "standardised columns"
    strengths: ClassVar[Strengths] = {
        "labels": (0.01, 0.1, 1.0, 10.0),
        "numbers": (0.001, 0.01, 0.1, 1.0, 10.0),
    }

    @classmethod
    def of(cls, rows: Sequence[Row], definition: Definition) -> Columns:
        types = definition.columns or (None,) * len(definition.inputs)
        columns = tuple(column_of([row[place] for row in rows], type_) for place, type_ in enumerate(types))
        found = _table(rows, columns)
        there = ~np.isnan(found)
        filled = np.where(there, found, 0.0)
        count = np.maximum(1, there.sum(0))
        centre = filled.sum(0) / count
        scale = np.sqrt((np.where(there, filled - centre, 0.0) ** 2).sum(0) / count)
        return cls(columns, centre.astype(np.float32), np.where(scale > 0, scale, 1).astype(np.float32))

    @property
    def width(self) -> int:
        return sum(len(column.categories) if column.sort == "category" else column.width + 1 for column in self.columns)

    @property
    def stored(self) -> int:
        return 2 * len(self.centre)

    def numbers(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        table = _table(rows, self.columns)
        parts: list[NDArray[np.generic]] = [np.zeros((len(rows), 0))]
        start = 0
        for column in self.columns:
            own = slice(start, start := start + column.width)
            values = table[:, own]
            if column.sort == "category":
                parts.append(values == np.arange(len(column.categories)))
            else:
                gone = np.isnan(values)
                standard = (np.where(gone, self.centre[own], values) - self.centre[own]) / self.scale[own]
                parts += [standard.clip(-FAR, FAR), gone[:, :1]]
        return np.concatenate([part.astype(np.float32) for part in parts], 1)

    def written(self) -> tuple[dict[str, Any], Arrays]:
        columns = [asdict(column) for column in self.columns]
        return {"columns": columns}, {"centre": self.centre, "scale": self.scale}

    @classmethod
    def read(cls, about: Mapping[str, Any], arrays: Arrays, definition: Definition) -> Columns:
        check_names(arrays, ("centre", "scale"))
        columns = fitted(dict[str, tuple[Column, ...]], dict(about))["columns"]
        if len(columns) != len(definition.inputs) or len(about) > 1:
            raise ValueError("it does not list the columns")
        if any(len(set(column.categories)) < len(column.categories) for column in columns):
            raise ValueError("a column has a category twice")
        centre, scale = (check_array(arrays, name, (len(_order(columns)),)) for name in ("centre", "scale"))
        if not (scale > 0).all():
            raise ValueError("'scale' is not above 0")
        return cls(columns, centre, scale)


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Numbers:
    return table_of(rows, columns, _order(columns)).clip(-LARGEST, LARGEST)


def _order(columns: Sequence[Column]) -> list[int]:
    """The place of each column as often as it has numbers."""
    return [place for place, column in enumerate(columns) for _ in range(column.width)]
