"""Fields: any number of named columns of texts, numbers and lists of texts, which a prompt puts into words."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from allround.core.registry import method
from allround.tasks.modality import Example, Fail, Modality, check_present, check_unicode
from allround.tasks.values import Value, native, plain, short

if TYPE_CHECKING:
    from pyarrow import Array


@method(source="the columns of a row as a prompt shows them; a cell of JSON holds a list")
class Fields(Modality):
    """Each column holds texts, numbers, or lists of texts; beside texts, numbers are texts too.

    >>> Fields().read("x", {"train": [1, 2.5], "test": [3]}, ValueError)
    {'train': [1.0, 2.5], 'test': [3.0]}
    >>> Fields().read("x", {"train": ['["red", "blue"]', [1, 2]]}, ValueError)
    {'train': [['red', 'blue'], ['1', '2']]}
    """

    noun = "a text, a number or a list of texts"
    for_prompts = True

    def recognises(self, value: object) -> bool:
        lists = isinstance(value, (list, tuple, np.ndarray)) and _texts(value) is not None
        return lists and not all(isinstance(one, str) for one in value)  # type: ignore[attr-defined]

    def fits(self, value: object) -> bool:
        if isinstance(value, list):
            return all(isinstance(one, str) for one in value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return isinstance(value, str) or number

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        every = [value for values in column.values() for value in values]
        for split, values in column.items():
            check_present(name, split, values, "value", fail)
        reader = _list if any(_list(value) is not None for value in every) else _text
        if reader is _list and not all(_list(value) is not None for value in every) and not _has_lists(every):
            reader = _text  # some texts look like lists
        if all(_is_number(value) for value in every):
            reader = _number
        found: dict[str, list[Value]] = {}
        for split, values in column.items():
            read = [reader(value) for value in values]
            wrong = [i for i, value in enumerate(read) if value is None]
            if wrong:
                what = "a list of texts" if reader is _list else "a text or a number"
                raise fail(
                    f"input '{name}' of {split} is not {what} in {len(wrong)} of {len(values)} rows, such as "
                    f"{short(values[wrong[0]])} in row {wrong[0]}",
                    "give texts, numbers, or lists of texts, the same in every row of a column",
                )
            texts = [one for value in read for one in (value if isinstance(value, list) else [value])]
            check_unicode(name, split, [one for one in texts if isinstance(one, str)], fail)
            found[split] = read
        return found

    def parse(self, value: object, row: int) -> Value:
        for reader in (_list, _number, _text):
            if (read := reader(value)) is not None:
                return read
        return value  # type: ignore[return-value]

    def to_arrow(self, values: Sequence[Value]) -> Array:
        import pyarrow as pa

        first = next(iter(values), None)
        if isinstance(first, list):
            return pa.array(values, pa.large_list(pa.large_string()))
        return pa.array(values, pa.large_string() if isinstance(first, str) else pa.float64())

    def example(self, columns: int) -> Example:
        """With several columns the last one is a list."""
        texts = max(1, columns - 1)
        lists = [["first", "second"]] * (columns - texts)
        words = ['"Some text"'] * texts + [f"'{json.dumps(one)}'" for one in lists]
        row = ("Some text",) * texts + tuple(lists)
        return Example(row, " ".join(words), f"[{row}]")


def _list(value: object) -> Value:
    """A list of texts, also as JSON; None where it is none."""
    if isinstance(value, str):
        if not (value.lstrip().startswith("[") and value.rstrip().endswith("]")):
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return _texts(value)


def _texts(value: object) -> list[str] | None:
    """Texts and numbers of a list as texts."""
    if not isinstance(value, (list, tuple, np.ndarray)) or not len(value):
        return None
    found = [native(one) for one in value]
    fine = all(isinstance(one, str) or _is_number(one) for one in found)
    return [plain(one) for one in found] if fine else None


def _has_lists(values: Sequence[object]) -> bool:
    return any(isinstance(value, (list, tuple, np.ndarray)) for value in values)


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float holds exactly."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= 2**53


def _number(value: object) -> Value:
    return float(value) if _is_number(value) else None  # type: ignore[arg-type]


def _text(value: object) -> Value:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, int)) or _is_number(value):
        return plain(value)
    return None
