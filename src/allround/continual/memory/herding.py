"""herding: rows of each label whose mean stays closest to the mean of all of them."""

from __future__ import annotations

import numpy as np

from allround.continual.rows import ArrivedRows, Ranking
from allround.core.registry import method


@method(source="iCaRL: Rebuffi et al., CVPR 2017, arXiv:1611.07725, algorithm 4")
def herding(rows: ArrivedRows) -> Ranking:
    """A group for each label of each task. Row after row is the one that brings the mean of the features chosen so far
    closest to the mean of the label's features; these are scaled to length 1 first. Ranks are those at the time of the
    arrival: later changes of the model do not move them."""
    groups = [f"{rows.task.name}: {label}" for label in rows.labels]
    features = rows.features / np.maximum(np.linalg.norm(rows.features, axis=1, keepdims=True), 1e-12)
    ranks = np.zeros(len(rows))
    for group in dict.fromkeys(groups):
        places = np.flatnonzero(np.array(groups) == group)
        ranks[places[herded(features[places])]] = np.arange(len(places))
    return Ranking(groups, ranks)


def herded(features: np.ndarray) -> list[int]:
    """The order in which rows are taken. features: (n, d).

    >>> herded(np.array([[0.0], [1.0], [2.0], [5.0]]))  # the mean is 2
    [2, 1, 3, 0]
    """
    mean, total = features.mean(0), np.zeros(features.shape[1])
    left: list[int] = list(range(len(features)))
    order: list[int] = []
    while left:
        gaps = np.linalg.norm(mean - (total + features[left]) / (len(order) + 1), axis=1)
        best = left.pop(int(gaps.argmin()))
        total += features[best]
        order.append(best)
    return order
