"""Columns that are read at once give what they give cell by cell."""

import math
from collections import Counter

import numpy as np
import pytest

from allround.tasks.cells import are_plain, codes_of, columns_of, counts_of, numbers_in
from allround.tasks.column_types import ColumnType
from allround.tasks.modalities.table import _read, _read_cells


@pytest.mark.parametrize(
    ("type", "cells"),
    [
        (ColumnType("number"), [1, -0.0, None, math.nan, 2.5, 10**20]),
        (ColumnType("number"), [1, math.inf, None]),
        (ColumnType("number", ","), ["1,5", "x", None, "NA", "1,5", "x"]),
        (ColumnType("category"), ["a", None, "", "NA", "a"]),
        (ColumnType("category"), [1, 2.0, None]),
        (ColumnType("date", "%d.%m.%Y"), ["1.2.2024", "31.2.2024", None]),
    ],
)
def test_a_column_is_read_at_once_as_cell_by_cell(type: ColumnType, cells: list[object]) -> None:
    (at_once, odd), (one_by_one, strays) = _read(type, cells), _read_cells(type, cells)
    assert repr(at_once) == repr(one_by_one)  # which tells 1 from 1.0, and 0.0 from -0.0
    assert odd == strays


def test_only_plain_numbers_are_an_array() -> None:
    assert numbers_in([True, 1]) is None and numbers_in([np.float64(1)]) is None and numbers_in([10**400]) is None
    found = numbers_in([2**53 + 1, None])
    assert found is not None and found[0] == float(2**53 + 1) and np.isnan(found[1])


def test_codes_and_counts_go_by_what_a_cell_is_as_text() -> None:
    codes = {"1": 0, "1.0": 1, "True": 2, "None": 3}
    assert codes_of([1, 1.0, True, None, math.nan, "x"], codes).tolist() == [0, 1, 2, -1, -1, -1]
    assert codes_of(["1", None, "None"], codes).tolist() == [0, -1, 3]
    assert counts_of([1, 1.0, "1", None]) == Counter({"1": 2, "1.0": 1}) and counts_of(["a", None]) == {"a": 1}


def test_rows_and_plain_cells() -> None:
    assert columns_of([(1, "a"), (2, "b")], 2) == [(1, 2), ("a", "b")]
    assert are_plain((1, True, "a", None)) and not are_plain((np.int64(1),))
