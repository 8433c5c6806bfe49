"""Token classification: one tag for each word of each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind
from allround.tasks.values import Target


@method(source="softmax regression on each word's first piece; the floor is the majority tag of the training words")
class TokenClassification(Kind):
    """A tag a word; cross-entropy averaged over the words of a batch; encoded as a list of int64 (words,).

    Words that the encoder cut off count in the score: they are predicted as the first tag in `labels`, and
    "O" is always first.

    >>> TokenClassification().facts([["O", "B-X"], ["I-X"]])
    {'labels': ('O', 'B-X', 'I-X')}
    """

    metric = "span_f1"
    per_token = True
    lists = True

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        tags = {str(tag) for row in values for tag in row}
        return {"labels": tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        return [np.array([index[str(tag)] for tag in row], dtype=np.int64) for row in values]

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [[definition.labels[int(i)] for i in row] for row in encoded]

    def decide(self, scores: np.ndarray | list[np.ndarray]) -> tuple[Encoded, list[float]]:
        # The mean probability of the words' tags.
        found = [float(row.max(-1).mean()) if len(row) else 1.0 for row in scores]
        return [row.argmax(-1).astype(np.int64) for row in scores], found

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        majority = np.bincount(np.concatenate(train)).argmax()
        return [np.full(length, majority, dtype=np.int64) for length in lengths]
