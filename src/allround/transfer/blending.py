"""Blending: what is expected of each pair of tasks, from several estimates and measured transfer to other targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError
from allround.transfer.matrix import TaskMatrix, Values, same_tasks
from allround.transfer.score import ranks


def blend(
    name: str,
    estimates: Sequence[TaskMatrix] = (),
    measured: TaskMatrix | None = None,
    settings: Mapping[str, object] | None = None,
) -> TaskMatrix:
    """What a blend says of each pair; higher is better.

    name: of a method of the family `blend`. estimates: all with the same sources and targets, which the result has too;
    without any, it has those of `measured`, whose values for a target must then be known already. measured: what was
    measured; a target that it lacks is one that nothing was measured of. Errors: what the method needs is missing.
    """
    entry = registry.find("blend", name)
    asked = f"blend estimates of transfer by '{name}'"
    if "estimates" in entry.needs:
        same_tasks(estimates, asked)
    if measured is None and "measured" in entry.needs:
        raise AllroundError(asked, "it needs measured transfer, and there is none", "give a measured matrix, or take "
                            "rank_sum, which needs none")  # fmt: skip
    made = entry.load()(estimates, measured, **entry.resolve(settings or {}))
    assert isinstance(made, TaskMatrix)
    return made


def ranked(values: Values) -> Values:
    """The rank of each source for a target, from 0 (worst) to 1 (best); NaN stays.

    >>> ranked(np.array([[1.0], [5.0], [np.nan], [2.0]])).ravel().tolist()
    [0.0, 1.0, nan, 0.5]
    """
    found = np.full(values.shape, np.nan)
    for column in range(values.shape[1]):
        known = ~np.isnan(values[:, column])
        if known.any():
            found[known, column] = (ranks(values[known, column]) - 1) / max(known.sum() - 1, 1)
    return found


def standardised(values: Values) -> Values:
    """The values of each target with mean 0 and spread 1 over its sources; zeros where all are equal. NaN stays.

    >>> standardised(np.array([[1.0], [3.0], [np.nan]])).ravel().tolist()
    [-1.0, 1.0, nan]
    """
    known = ~np.isnan(values)
    count = np.maximum(known.sum(0), 1)
    gaps = values - np.where(known, values, 0).sum(0) / count
    spread = np.sqrt(np.square(np.where(known, gaps, 0)).sum(0) / count)
    return np.asarray(gaps / np.where(spread > 0, spread, 1))
