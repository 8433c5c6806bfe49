"""Ordinal: one step of a scale for each example, such as a rating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind, scale_odds
from allround.tasks.values import Target


@method(
    source="McCullagh, Journal of the Royal Statistical Society B 42, 1980; the answer is the median, as in Cao, "
    "Mirjalili and Raschka 2020, arXiv:1901.07884; the floor is the median of the training rows"
)
class Ordinal(Kind):
    """One label an example out of labels in order; encoded as its place, int64 (n,).

    The labels are numbers, ordered by their size, or names in the order that `labels` of the task gives. The answer is
    the median of the probabilities, which is off by the fewest steps on average.

    >>> from allround.tasks.definition import Definition
    >>> kind = Ordinal()
    >>> d = Definition("t", "ordinal", ("x",), "text", "quadratic_kappa", **kind.facts(["10", "2", "9.5"]))
    >>> d.labels, kind.decide([[0.4, 0.2, 0.4]])
    (('2', '9.5', '10'), (array([1]), [0.2]))
    """

    metric = "quadratic_kappa"
    ordered = True

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {"labels": tuple(sorted({str(v) for v in values}, key=float))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        return np.array([index[str(v)] for v in values], dtype=np.int64)

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [definition.labels[int(i)] for i in encoded]

    def decide(self, scores: np.ndarray | list[np.ndarray]) -> tuple[Encoded, list[float]]:
        table = np.asarray(scores, dtype=np.float64)
        upto = np.cumsum(table, axis=1)[:, :-1]
        median = (upto < 0.5 * table.sum(1, keepdims=True)).sum(1).astype(np.int64)
        return median, [float(value) for value in table[np.arange(len(table)), median]]

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return np.full(count, self.decide(self.shares(train, int(max(train)) + 1)[None])[0][0], dtype=np.int64)

    def tempered(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """The logits are those of ending up to each step, so that the median stays what it is."""
        upto = np.cumsum(np.asarray(scores, dtype=np.float64), axis=1)[:, :-1]
        ends = [np.zeros((len(upto), 1)), scale_odds(upto, temperature), np.ones((len(upto), 1))]
        return np.asarray(np.diff(np.concatenate(ends, axis=1), axis=1))

    def shares(self, train: Encoded, labels: int) -> np.ndarray:
        counts = np.bincount(train, minlength=labels)
        return np.asarray(counts / counts.sum())

    def strata(self, encoded: Encoded) -> list[object] | None:
        return list(map(int, encoded))
