"""How far answers are from targets."""

from __future__ import annotations

import numpy as np

from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array

#: No error counts more.
MOST = 1e100


def distance(targets: Encoded, predictions: Encoded, definition: Definition) -> Array:
    """|answer - target| in the units of the target, at most MOST: (n,).

    >>> d = Definition("t", "regression", ("x",), "text", "rmse", scale=2.0)
    >>> distance(np.array([0.0, 1.0]), np.array([1.0, np.nan]), d).tolist()
    [2.0, 1e+100]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(np.asarray(targets) - np.asarray(predictions)) * definition.scale
    found: Array = np.minimum(np.nan_to_num(error, nan=MOST, posinf=MOST), MOST)
    return found
