"""Retrieval: the passages that answer a query, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind
from allround.tasks.values import Target

#: Passages of an answer.
MOST = 100


@method(source="ad hoc retrieval of TREC and BEIR; the floor ranks by how often a passage is relevant in training")
class Retrieval(Kind):
    """The relevance of passages to a query; encoded as a dictionary of grades by id, predictions as tuples of ids.

    A row is a query and the passages that it is answered from (`allround.tasks.passages.Passages`): the same for all
    rows of a search, each row's own for re-ranking. A passage whose grade is 0 was judged, and is not relevant; one
    without a grade is taken as not relevant. An answer ranks at most 100 passages.

    >>> from allround.tasks.definition import Definition
    >>> kind, d = Retrieval(), Definition("t", "retrieval", ("query", "passages"), "text", "ndcg")
    >>> kind.encode([{"p1": 2}, ["p2", "p1"]], d)
    [{'p1': 2.0}, ('p2', 'p1')]
    """

    metric = "ndcg"
    ranked = True
    least_labels = 0

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        return [
            {str(one): float(grade) for one, grade in value.items()} if isinstance(value, Mapping) else tuple(value)
            for value in values
        ]

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [dict(row) if isinstance(row, Mapping) else list(row) for row in encoded]

    def spoken(self, target: Target) -> str:
        relevant = [one for one in target if target[one] > 0] if isinstance(target, dict) else target
        return ", ".join(map(str, relevant)) if isinstance(relevant, list) else str(relevant)

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        often = Counter(one for row in train for one, grade in row.items() if grade > 0)
        order = sorted(often, key=lambda one: (-often[one], one))[:MOST]
        return [tuple(order)] * count
