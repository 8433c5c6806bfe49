"""Regression: one number for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind
from allround.tasks.values import Target


@method(source="least squares on standardised targets; the floor is the mean of the training rows")
class Regression(Kind):
    """One number an example; half the squared error in units of the training standard deviation; float64 (n,).

    >>> from allround.tasks.definition import Definition
    >>> kind = Regression()
    >>> kind.facts([1.0, 3.0])
    {'center': 2.0, 'scale': 1.0}
    """

    metric = "pearson"
    numeric = True

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        array = np.asarray(values, dtype=np.float64)
        return {"center": float(array.mean()), "scale": float(array.std()) or 1.0}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        return (np.asarray(values, dtype=np.float64) - definition.center) / definition.scale

    def decode(self, encoded: Encoded, definition: Definition) -> list[Target]:
        return [float(v) for v in np.asarray(encoded) * definition.scale + definition.center]

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return np.full(count, np.mean(train))
