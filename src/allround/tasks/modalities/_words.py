"""Words: a text given as a list of words, for tasks that ask about each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from allround.tasks.modality import Example, Fail, Modality, check_present, check_unicode
from allround.tasks.values import Value, short

if TYPE_CHECKING:
    from pyarrow import Array


class Words(Modality):
    """A list of words a row; on the command line, the words of a text."""

    noun = "a list of words"
    most_columns = 1
    fewer = "name one input column that holds a list of words a row"

    def recognises(self, value: object) -> bool:
        return isinstance(value, (list, tuple, np.ndarray)) and all(isinstance(word, str) for word in value)

    def fits(self, value: object) -> bool:
        return isinstance(value, list) and all(isinstance(word, str) for word in value)

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for split, values in column.items():
            check_present(name, split, values, "words", fail)
            lists = [v for v in values if isinstance(v, (list, tuple, np.ndarray)) and self.recognises(v)]
            if len(lists) < len(values):
                wrong = [v for v in values if not self.recognises(v)]
                raise fail(
                    f"input '{name}' of {split} is not a list of words in {len(wrong)} of {len(values)} rows, "
                    f"such as {short(wrong[0])}",
                    "give a list of strings a row",
                )
            words = [[str(word) for word in row] for row in lists]
            check_unicode(name, split, [word for row in words for word in row], fail)
            found[split] = list(words)
        return found

    def parse(self, value: object, row: int) -> Value:
        if isinstance(value, str):
            return value.split()
        return list(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]

    def to_arrow(self, values: Sequence[Value]) -> Array:
        import pyarrow as pa

        return pa.array(values, pa.large_list(pa.large_string()))

    def example(self, columns: int) -> Example:
        return Example((["one", "two", "three"],), '"Some text"', '[["Some", "text"]]')
