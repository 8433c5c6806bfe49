"""Text: an answer of the model's own words for each example, such as a summary or a worked-out number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind
from allround.tasks.values import Target


@method(source="text generation; the floor is the most frequent answer of the training rows")
class Text(Kind):
    """A text, or several accepted ones, an example; encoded as a list of tuples of texts, predictions of one text each.

    Training teaches the first of the accepted answers.

    >>> from allround.tasks.definition import Definition
    >>> kind, d = Text(), Definition("t", "text", ("x",), "text", "exact_match")
    >>> kind.encode(["four", ["4", "four"]], d)
    [('four',), ('4', 'four')]
    >>> kind.decode([("four",), ("4", "four")], d), kind.spoken(["4", "four"])
    (['four', ['4', 'four']], '4')
    """

    metric = "exact_match"
    written = True
    least_labels = 0

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        return [(value,) if isinstance(value, str) else tuple(value) for value in values]

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [row[0] if len(row) == 1 else list(row) for row in encoded]

    def spoken(self, target: Target) -> str:
        return target[0] if isinstance(target, list) else str(target)

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        ((answer, _),) = Counter(row[0] for row in train).most_common(1)
        return [(answer,)] * count
