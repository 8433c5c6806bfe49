"""Answers that rank passages, beside the grades of passages: as they are checked, kept and shown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.tasks.kind import Encoded
from allround.tasks.values import short

if TYPE_CHECKING:
    from pyarrow import Array, DataType


def check_ranked(targets: Encoded, predictions: Encoded, asked: str) -> None:
    """An error unless each target maps ids to grades, and each prediction is a tuple of different ids."""
    for place, (target, said) in enumerate(zip(targets, predictions, strict=True)):
        grades = isinstance(target, dict) and all(
            isinstance(one, str) and isinstance(grade, float) and math.isfinite(grade) for one, grade in target.items()
        )
        if not grades or not target:
            raise AllroundError(asked, f"the target of row {place} is {short(target)}", "give grades: {id: grade}")
        ids = isinstance(said, tuple) and all(isinstance(one, str) for one in said)
        if not ids or len(set(said)) < len(said):
            raise AllroundError(
                asked, f"the prediction of row {place} is {short(said)}", "give a tuple of different ids of passages"
            )


def grades_type() -> DataType:
    """The Arrow type of grades by id."""
    import pyarrow as pa

    return pa.map_(pa.string(), pa.float64())


def ranked_columns(targets: Encoded, predictions: Encoded) -> dict[str, Array]:
    """The columns of a file of predictions."""
    import pyarrow as pa

    grades = [list(target.items()) for target in targets]
    return {
        "target": pa.array(grades, grades_type()),
        "prediction": pa.array([list(said) for said in predictions], pa.list_(pa.string())),
    }


def first_right(targets: Encoded, predictions: Encoded) -> NDArray[np.bool_]:
    """(n,): whether the first passage of each answer is relevant.

    >>> first_right([{"a": 1.0}, {"a": 1.0, "b": 0.0}], [("a",), ("b", "a")]).tolist()
    [True, False]
    """
    pairs = zip(targets, predictions, strict=True)
    return np.array([bool(said) and target.get(said[0], 0.0) > 0 for target, said in pairs], dtype=bool)
