"""Table: columns of numbers and categories, whose cells may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.registry import method
from allround.tasks.modality import Example, Fail, Modality, check_unicode
from allround.tasks.values import Row, Value, is_missing, short

if TYPE_CHECKING:
    from pyarrow import Array


@method(source="columns of float64 numbers, or of texts that are categories")
class Table(Modality):
    """Any number of columns: numbers become floats; a column with a text anywhere in train is all text.

    >>> Table().read("x", {"train": [1, True, None], "test": [2]}, ValueError)
    {'train': [1.0, 1.0, None], 'test': [2.0]}
    """

    noun = "a number or a text"
    mixes = True

    def recognises(self, value: object) -> bool:
        return value is None or isinstance(value, (int, float))

    def fits(self, value: object) -> bool:
        return value is None or isinstance(value, (str, int, float))

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        text = False
        for split, given in column.items():
            values = [None if is_missing(v) else v for v in given]
            wrong = [v for v in values if not self.fits(v) or (isinstance(v, float) and math.isinf(v))]
            words = [v for v in values if isinstance(v, str)]
            if wrong:
                raise fail(
                    f"input '{name}' of {split} is neither a finite number nor text in {len(wrong)} of "
                    f"{len(values)} rows, such as {short(wrong[0])}",
                    "give numbers or text; leave a cell empty where the value is missing",
                )
            if split == "train":
                text = bool(words)
            elif words and not text:
                raise fail(
                    f"input '{name}' holds numbers in train, and text in {len(words)} of {len(values)} rows "
                    f"of {split}, such as {short(words[0])}",
                    "give the same type in every split",
                )
            if text:
                check_unicode(name, split, words, fail)
            found[split] = [None if v is None else str(v) if text else _number(v) for v in values]
        return found

    def parse(self, value: object, row: int) -> Value:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return value  # type: ignore[return-value]

    def numbers(self, row: Row) -> NDArray[np.float32] | None:
        """float32 (columns,)."""
        return np.array([_number(value) for value in row], dtype=np.float32)

    def to_arrow(self, values: Sequence[Value]) -> Array:
        import pyarrow as pa

        first = next((v for v in values if v is not None), None)
        return pa.array(values, pa.large_string() if isinstance(first, str) else pa.float64())

    def example(self, columns: int) -> Example:
        numbers = [str(1.0 + 1.5 * i) for i in range(columns)]
        inner = ", ".join(numbers) + ("," if columns == 1 else "")
        return Example((None,) * columns, " ".join(numbers), f"[({inner})]")


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
