"""Cells of a table as the inputs of a task: each row is a row that can be answered, or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from allround.core.errors import AllroundError
from allround.tasks.choices import wrong_options
from allround.tasks.column_types import ColumnType
from allround.tasks.definition import Definition
from allround.tasks.modality import Modality, modality_of
from allround.tasks.odd_cells import odd_cells
from allround.tasks.passages import Passages
from allround.tasks.sources.stream import Window
from allround.tasks.sources.text_files import BOOLEANS
from allround.tasks.values import Row, Value, is_empty, is_missing, native, short


@dataclass
class Inputs:
    """The rows of a window that a task can answer.

    places: of each, where it is in the window. empty, broken: why the others have no answer, by their places. odd: what
    rows hold that training rows hold nothing like, by their places.
    """

    rows: list[Row] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    empty: dict[int, str] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    odd: dict[int, list[str]] = field(default_factory=dict)


class EmptyCell(Exception):
    """A cell is empty, and the task cannot do without it."""


class BrokenCell(Exception):
    """A cell holds what the task cannot read."""


def read_inputs(definition: Definition, window: Window, passages: Passages | None = None) -> Inputs:
    """A window's rows as a task's inputs. passages: those of all rows, where these hold queries alone."""
    rules = modality_of(definition)
    found = Inputs()
    types: tuple[ColumnType | None, ...] = definition.columns or (None,) * len(definition.inputs)
    cells = [window.column(name) for name in (definition.inputs if passages is None else definition.inputs[:1])]
    if passages is not None:
        cells.append([passages] * len(window))
    columns = list(zip(definition.inputs, types, cells, strict=True))
    for place in range(len(window)):
        number = window.first + place
        try:
            row = tuple(_value(rules, name, type_, column[place], number) for name, type_, column in columns)
            if (wrong := wrong_options(definition, row)) is not None:
                raise BrokenCell(f"the row has {wrong}")
        except EmptyCell as error:
            found.empty[place] = str(error)
            continue
        except BrokenCell as error:
            found.broken[place] = str(error)
            continue
        found.rows.append(row)
        found.places.append(place)
        if definition.columns and (odd := odd_cells(definition, row)):
            found.odd[place] = odd
    return found


def _value(rules: Modality, name: str, type_: ColumnType | None, cell: object, number: int) -> Value:
    blank = isinstance(cell, str) and not cell.strip()
    if is_missing(cell) or is_empty(cell) or (blank and type_ is None):
        if not rules.gaps:
            raise EmptyCell(f"'{name}' is empty")
        return None
    if type_ is not None:
        return of_type(type_, name, cell)
    try:
        value = rules.parse(cell, number)
    except AllroundError as error:
        raise BrokenCell(f"'{name}' cannot be read: {error.found}") from error
    if isinstance(value, list) and not value:
        raise EmptyCell(f"'{name}' has no words")
    if not rules.fits(value):
        raise BrokenCell(f"'{name}' holds {short(cell)}, which is not {rules.noun}")
    _check_unicode(name, value if isinstance(value, list) else [value])
    return value


def of_type(type_: ColumnType, name: str, cell: object) -> Value:
    """A cell of a table as its column's type reads it. Errors: `BrokenCell`.

    >>> of_type(ColumnType("number"), "age", " 1e3 "), of_type(ColumnType("number"), "age", "TRUE")
    (1000.0, 1.0)
    """
    if type_.type == "number" and isinstance(cell, str):
        cell = BOOLEANS.get(cell.strip(), cell)  # as files with nothing else in the column are read
    try:
        value = type_.read(native(cell))
    except ValueError as error:
        raise BrokenCell(f"'{name}' holds {short(cell)}, which {str(error).removeprefix('it ')}") from error
    _check_unicode(name, [value])
    return value


def _check_unicode(name: str, values: Sequence[Value]) -> None:
    for text in values:
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BrokenCell(f"'{name}' is not valid Unicode") from None
