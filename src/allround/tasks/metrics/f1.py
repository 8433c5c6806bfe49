"""F1: the harmonic mean of precision and recall of one label."""

from __future__ import annotations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, PartsMetric
from allround.tasks.metrics._labels import has_label, place_of


@method(source="scikit-learn, f1_score(average='binary')", kinds=("classification", "multilabel"), better="higher")
class F1(PartsMetric):
    """The F1 of one label, 0 to 1; 0 where it occurs neither among targets nor among predictions.

    label: which one; of two labels that exclude each other it is the second, if none is named.

    >>> d = Definition("t", "classification", ("x",), "text", "f1", ("no", "yes"))
    >>> round(F1().score(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), d), 4)
    0.6667
    """

    def __init__(self, *, label: str | None = None) -> None:
        self.label = label

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.metrics import f1_score

        true, said = self._both(targets, predictions, definition)
        return float(f1_score(true, said, zero_division=0.0))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        true, said = self._both(targets, predictions, definition)
        return np.stack([true & said, true, said], 1).astype(np.float64)

    def value(self, sums: Array, definition: Definition) -> Array:
        right, true, said = sums.T
        found: Array = 2 * right / np.where(true + said > 0, true + said, 1.0)
        return found

    def check(self, definition: Definition) -> None:
        self._place(definition)

    def _both(self, targets: Encoded, predictions: Encoded, definition: Definition) -> list[np.ndarray]:
        place = self._place(definition)
        return [has_label(one, place, definition) for one in (targets, predictions)]

    def _place(self, definition: Definition) -> int:
        place = place_of(self.label, definition, "f1")
        if place is None:
            raise AllroundError(
                f"score the task '{definition.name}' by 'f1'",
                f"that is the F1 of one label, and the task has {len(definition.labels)}",
                f"name it: f1:label={definition.labels[0]}; or use macro_f1 or weighted_f1",
            )
        return place
