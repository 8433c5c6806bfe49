"""Cells of a column read at once, where all of them are of types that need no look one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from allround.tasks.values import is_missing

T = TypeVar("T")

_NONE = type(None)
_NUMBERS, _TEXTS = {int, float, _NONE}, {str, _NONE}
_PLAIN = {int, float, bool, str, _NONE}


def numbers_in(cells: Sequence[object]) -> NDArray[np.float64] | None:
    """The numbers of a column, NaN where there is none; None where a cell is anything else.

    >>> numbers_in([1, None, 2.5]).tolist(), numbers_in([1, "2"])
    ([1.0, nan, 2.5], None)
    """
    if not _NUMBERS.issuperset(map(type, cells)):
        return None
    try:
        return np.array(cells, dtype=np.float64)
    except OverflowError:  # a whole number beyond all floats
        return None


def are_texts(cells: Sequence[object]) -> bool:
    """Whether all cells are texts or None."""
    return _TEXTS.issuperset(map(type, cells))


def are_plain(cells: Sequence[object]) -> bool:
    """Whether all cells are texts, numbers and truth values of Python itself, or None."""
    return _PLAIN.issuperset(map(type, cells))


def codes_of(cells: Sequence[object], codes: Mapping[str, int]) -> NDArray[np.int64]:
    """The code of each cell by what it is as text; -1 where it is missing or has no code.

    >>> codes_of(["b", None, 1, "c"], {"b": 0, "1": 1}).tolist()
    [0, -1, 1, -1]
    """
    if are_texts(cells):
        found = map(codes.get, cells, repeat(-1))  # type: ignore[arg-type]
    else:
        found = (-1 if is_missing(cell) else codes.get(str(cell), -1) for cell in cells)  # type: ignore[assignment]
    return np.fromiter(found, np.int64, len(cells))


def counts_of(cells: Sequence[object]) -> Counter[str]:
    """How often each cell occurs, as text; missing ones do not count.

    >>> counts_of(["b", None, 1, "1"])
    Counter({'1': 2, 'b': 1})
    """
    if not are_texts(cells):
        return Counter(str(cell) for cell in cells if not is_missing(cell))
    found = Counter(cells)
    found.pop(None, None)
    return found  # type: ignore[return-value]


def columns_of(rows: Sequence[tuple[T, ...]], count: int) -> list[tuple[T, ...]]:
    """The columns of rows that have `count` of them.

    >>> columns_of([(1, 2), (3, 4)], 2), columns_of([], 2)
    ([(1, 3), (2, 4)], [(), ()])
    """
    return list(zip(*rows, strict=True)) if rows else [()] * count
