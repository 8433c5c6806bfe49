"""Span F1: precision and recall of whole tagged spans, such as names."""

from __future__ import annotations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric


@method(
    source="seqeval, f1_score(mode='strict', scheme=IOB2)",
    kinds=("token_classification",),
    better="higher",
)
class SpanF1(PartsMetric):
    """F1 over all spans of all sentences, 0 to 1; a span is right when its ends and its type are.

    Spans are read by IOB2: one begins with B- and goes on with I- of the same type; an I- that follows
    neither does not count. The score is 0 where there are no spans.

    >>> d = Definition("t", "token_classification", ("x",), "text", "span_f1", ("O", "B-X", "I-X"))
    >>> round(SpanF1().score([[1, 2, 0, 1], [0]], [[1, 2, 0, 0], [0]], d), 4)
    0.6667
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from seqeval.metrics import f1_score
        from seqeval.scheme import IOB2

        true, said = _tags(targets, definition), _tags(predictions, definition)
        return float(f1_score(true, said, mode="strict", scheme=IOB2, zero_division=0))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        from seqeval.scheme import IOB2, Entities

        true, said = (Entities(_tags(tags, definition), IOB2).entities for tags in (targets, predictions))
        rows = []
        for there, found in zip(true, said, strict=True):
            right = len({e.to_tuple() for e in there} & {e.to_tuple() for e in found})
            rows.append((right, len(found) - right, len(there) - right))
        return np.array(rows, dtype=np.float64)

    def value(self, sums: Array, definition: Definition) -> Array:
        right, wrong, missed = sums.T
        spans = 2 * right + wrong + missed
        found: Array = 2 * right / np.where(spans > 0, spans, 1.0)
        return found

    def check(self, definition: Definition) -> None:
        odd = [label for label in definition.labels if label != "O" and label[:2] not in ("B-", "I-")]
        if odd:
            raise AllroundError(
                f"score the task '{definition.name}' by 'span_f1'",
                f"its tags are not IOB2: {', '.join(map(repr, odd[:5]))}",
                "tag spans as O, B-<type>, I-<type>, or set the metric to 'accuracy' (share of words)",
            )


def _tags(encoded: Encoded, definition: Definition) -> list[list[str]]:
    return [[definition.labels[int(i)] for i in row] for row in encoded]
