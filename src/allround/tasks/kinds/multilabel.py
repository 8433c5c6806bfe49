"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind, scale_odds
from allround.tasks.values import Target


@method(source="independent logistic regressions; the floor gives each label its majority of the training rows")
class Multilabel(Kind):
    """A list of labels an example; binary cross-entropy averaged over labels; encoded as int8 (n, k).

    >>> from allround.tasks.definition import Definition
    >>> kind = Multilabel()
    >>> d = Definition("t", "multilabel", ("x",), "text", "macro_f1", **kind.facts([["a"], ["b", "a"], []]))
    >>> kind.encode([["b"], []], d).tolist(), kind.decode([[1, 1]], d)
    ([[0, 1], [0, 0]], [['a', 'b']])
    """

    metric = "macro_f1"
    lists = True
    exclusive = False
    indicators = True
    least_labels = 1

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {"labels": tuple(sorted({str(label) for row in values for label in row}))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        encoded = np.zeros((len(values), len(index)), dtype=np.int8)
        for row, labels in enumerate(values):
            for label in labels:
                encoded[row, index[str(label)]] = 1
        return encoded

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [[label for label, on in zip(definition.labels, row, strict=True) if on] for row in encoded]

    def decide(self, scores: np.ndarray | list[np.ndarray]) -> tuple[Encoded, list[float]]:
        table = np.asarray(scores, dtype=np.float64)
        # The probability of the whole set of labels, taking them as independent.
        return (table > 0.5).astype(np.int8), [float(value) for value in np.maximum(table, 1 - table).prod(-1)]

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return np.tile((np.asarray(train).mean(0) > 0.5).astype(np.int8), (count, 1))

    def tempered(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        return scale_odds(scores, temperature)

    def shifted(self, scores: np.ndarray, biases: np.ndarray) -> np.ndarray:
        yes = np.asarray(scores, dtype=np.float64)
        # Of p exp(b) and 1 - p, either is made smaller, so that neither overflows.
        yes, no = yes * np.exp(np.minimum(biases, 0)), (1 - yes) * np.exp(-np.maximum(biases, 0))
        return np.asarray(yes / (yes + no))

    def sureness(self, scores: np.ndarray, predictions: Encoded) -> np.ndarray:
        return np.where(np.asarray(predictions) == 1, scores, 1 - scores)

    def shares(self, train: Encoded, labels: int) -> np.ndarray:
        return np.asarray(np.asarray(train).mean(0))
