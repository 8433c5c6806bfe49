"""score_similarity: tasks on which models score as they do on the others."""

from __future__ import annotations

from typing import Literal

import numpy as np

from allround.core.registry import method
from allround.transfer.deciding import facility_location
from allround.transfer.reducing import KnownTasks, similarity


@method(
    source="facility location: Cornuejols, Fisher and Nemhauser, Management Science 23, 1977, over scores of models",
    needs=("scores",),
)
def score_similarity(
    known: KnownTasks, count: int, *, by: Literal["distance", "correlation"] = "distance"
) -> list[int]:
    """Choose tasks by the scores that models have on them.

    Formula: facility location over 1.5 * max d - d_ij, d_ij the distance of the scores of tasks i and j; or over
    1 + r_ij, r their correlation over models
    Differs: correlation knows nothing of how hard tasks are, and their mean does; hence distance by default.

    >>> known = KnownTasks(np.array([[0.1, 0.2, 0.9], [0.3, 0.3, 0.7], [0.4, 0.5, 0.6]]))
    >>> score_similarity(known, 2), score_similarity(known, 2, by="correlation")
    ([1, 2], [1, 2])
    """
    if by == "distance":
        return facility_location(similarity(known.scores.T), count)
    gaps = known.scores - known.scores.mean(0)
    unit = gaps / np.maximum(np.sqrt(np.square(gaps).sum(0)), 1e-12)
    return facility_location(1 + unit.T @ unit, count)
