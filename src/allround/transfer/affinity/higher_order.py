"""higher_order: a task does in a group as it does, on average, with each of the others alone."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.grouping import GroupRuns, Members
from allround.transfer.matrix import Values


@method(
    source="the higher-order approximation: Standley et al., ICML 2020, arXiv:1905.07553, section 4.4",
    largest=2,
)
def higher_order(runs: GroupRuns, groups: Members) -> Values:
    """Foretell groups from all pairs of tasks, and each task alone.

    Shapes: groups (G, n) -> (G, n)
    Formula: value(i, group) = mean over j in group, j != i, of the value of i when trained with j; alone, its own value

    >>> runs = GroupRuns.of({("a",): {"a": 1.0}, ("b",): {"b": 2.0}, ("c",): {"c": 3.0},
    ...     ("a", "b"): {"a": 1.5, "b": 2.0}, ("a", "c"): {"a": 0.5, "c": 3.0}, ("b", "c"): {"b": 2.0, "c": 2.0}})
    >>> higher_order(runs, np.array([[True, True, True], [True, False, False]])).round(2).tolist()
    [[1.0, 2.0, 2.5], [1.0, 2.0, 3.0]]
    """
    alone = runs.pairs.diagonal()
    apart = runs.pairs - np.diag(alone)
    others = groups[:, None, :] & ~np.eye(len(alone), dtype=bool)
    count = others.sum(2)
    sums = (others * apart).sum(2)
    return np.where(groups & (count > 0), sums / np.maximum(count, 1), alone)
