"""Classification: one label out of several for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind
from allround.tasks.values import Target


@method(source="softmax regression; the floor is the majority class of the training rows")
class Classification(Kind):
    """One label an example; cross-entropy loss; encoded as int64 (n,).

    >>> from allround.tasks.definition import Definition
    >>> kind = Classification()
    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", **kind.facts(["no", "yes", "no"]))
    >>> d.labels, kind.encode(["yes"], d).tolist(), kind.decode([0], d)
    (('no', 'yes'), [1], ['no'])
    """

    metric = "accuracy"

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {"labels": tuple(sorted({str(v) for v in values}))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        return np.array([index[str(v)] for v in values], dtype=np.int64)

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [definition.labels[int(i)] for i in encoded]

    def decide(self, scores: np.ndarray | list[np.ndarray]) -> tuple[Encoded, list[float]]:
        table = np.asarray(scores)
        return table.argmax(-1).astype(np.int64), [float(value) for value in table.max(-1)]

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return np.full(count, np.bincount(train).argmax(), dtype=np.int64)

    def shares(self, train: Encoded, labels: int) -> np.ndarray:
        counts = np.bincount(train, minlength=labels)
        return np.asarray(counts / counts.sum())

    def strata(self, encoded: Encoded) -> list[object] | None:
        return list(map(int, encoded))
